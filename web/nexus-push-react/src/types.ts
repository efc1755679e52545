/**
 * The payload types of your topics. Empty here; add to it by declaration merging:
 *
 * ```ts
 * declare module 'nexus-push-react' {
 *   interface TopicPayloads {
 *     [topic: `quotes:${string}`]: Quote;
 *     'ops:nodes': Record<string, NodeReport>;
 *   }
 * }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: an interface, because only interfaces can be augmented
export interface TopicPayloads {}

/** The payload type of topic `T` as declared in {@link TopicPayloads}; `unknown` if it is not declared. */
export type PayloadOf<T extends string> = T extends keyof TopicPayloads ? TopicPayloads[T] : unknown;

/** How the server treats the publications of a topic. The reply to a subscribe contains the class. */
export type TopicClass = 'merge' | 'latest' | 'stream';

/**
 * - `idle`: not subscribed (no users yet, `enabled: false`, or the tab has been hidden for long). Data that
 *   was received before stays visible, but is not kept up to date.
 * - `subscribing`: requested but not confirmed yet, or the connection was lost and is being re-established.
 * - `live`: subscribed.
 * - `error`: the server refused or ended the subscription; see `error`.
 */
export type TopicStatus = 'idle' | 'subscribing' | 'live' | 'error';

/** An error as the server or the SDK reports it. */
export interface PushError {
  readonly code: number;
  readonly message: string;
}

/** One event of a `stream` topic. */
export interface StreamEvent<P> {
  /** Position in the topic. Rises from event to event, not necessarily by one. */
  readonly offset: number | undefined;
  /** When the event arrived, Unix ms. */
  readonly time: number;
  readonly data: P;
}

/** The state of a topic. Immutable: a change creates a new object, which shares unchanged parts of `data`. */
export interface TopicState<P> {
  readonly topic: string;
  readonly status: TopicStatus;
  /** merge: the merged object; latest: the value; stream: the newest event. `undefined`: nothing received. */
  readonly data: P | undefined;
  /** stream: the last `keep` events, oldest first; empty for the other classes. */
  readonly events: readonly StreamEvent<P>[];
  /** Offset of the newest publication. */
  readonly offset: number | undefined;
  /**
   * When the newest publication arrived, Unix ms. (The SDK does not pass on the time at the source.) For a
   * snapshot this is the time of arrival too, although its content may be older.
   */
  readonly time: number | undefined;
  /** The server reports that the topic has been quiet for longer than configured. The data is still valid. */
  readonly stale: boolean;
  /** Quiet since, Unix ms; `undefined` unless `stale`. */
  readonly staleSince: number | undefined;
  /**
   * stream: events may be missing, because the server could not recover all of them after an interruption.
   * Stays `true` until no component uses the topic any more.
   */
  readonly gap: boolean;
  /**
   * With status `error`: the reason. With status `subscribing`: why the last attempt failed; another one
   * follows. Otherwise `undefined`.
   */
  readonly error: PushError | undefined;
}

/** Options for one topic. All users of a topic share one subscription. */
export interface TopicOptions {
  /**
   * At most this many deliveries per second; the server conflates (merge and latest; a stream is not
   * affected). Default: unlimited. If users of one topic differ, the highest applies.
   */
  maxRate?: number | undefined;
  /** How many events of a `stream` are kept. Default: 100. If users differ, the highest applies. */
  keep?: number | undefined;
  /** `false`: do not subscribe; what was received before stays visible. Default: `true`. */
  enabled?: boolean | undefined;
}

/** One publication, as it arrived, before batching. */
export interface Publication<P = unknown> {
  readonly topic: string;
  /** merge: the patch, or the whole object for a snapshot; latest: the value; stream: the event. */
  readonly data: P;
  readonly offset: number | undefined;
  /** When it arrived, Unix ms. */
  readonly time: number;
  /** `true`: `data` replaces all stored data of the topic. */
  readonly snapshot: boolean;
  /** How many publications at the source this one replaces; 1 unless the server conflated. */
  readonly conflated: number;
}

/** The state of the connection to the server. */
export interface ConnectionState {
  /** `disconnected`: not connected and not trying (closed, or refused permanently: see `error`). */
  readonly status: 'connecting' | 'connected' | 'disconnected';
  /** Time of the last change of `status`, Unix ms. */
  readonly since: number;
  /** Failed attempts since it was last connected. */
  readonly attempts: number;
  /** Why it is not connected. */
  readonly error?: PushError;
  /** Id of this connection, given by the server. Only while connected. */
  readonly clientId?: string;
  /** Node of the server, if the server sends it. Only while connected. */
  readonly node?: string;
  /** The server announced its shutdown. The SDK reconnects by itself. Unset when connected again. */
  readonly closing?: { readonly retryAfterMs: number };
}

/** Counters of a client since it was created. */
export interface PushStats {
  /** Publications received, snapshots included. */
  readonly publications: number;
  /** Snapshots among them. */
  readonly snapshots: number;
  /** Publications at the source that they replace; more than `publications` if the server conflated. */
  readonly represented: number;
  /** Times that listeners were called: at most once per animation frame. */
  readonly flushes: number;
  /** Current number of topics. */
  readonly topics: number;
  /** Current number of subscriptions at the server. */
  readonly subscriptions: number;
}
