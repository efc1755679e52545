import {
  Centrifuge,
  type Options,
  type PublicationContext,
  type SubscribedContext,
  type Subscription,
  SubscriptionState,
} from 'centrifuge';
import { ConnectionStore } from './connection-store.js';
import { FrameScheduler } from './frame.js';
import { guarded } from './guard.js';
import { isObject } from './merge.js';
import { DEFAULT_KEEP, idleState, TopicStore } from './topic-store.js';
import type {
  ConnectionState,
  PayloadOf,
  Publication,
  PushStats,
  TopicClass,
  TopicOptions,
  TopicState,
} from './types.js';
import { watchVisibility } from './visibility.js';

/** Options of a {@link PushClient}. */
export interface PushClientOptions {
  /** Address of the server. Default: `/connection/websocket` at the host of the page. */
  url?: string | undefined;
  /** First connection token. Default: none (anonymous). */
  token?: string | undefined;
  /** Gets a new connection token, if the first one is missing or has expired. */
  getToken?: (() => Promise<string>) | undefined;
  /** Passed to the SDK unchanged. */
  options?: Partial<Options> | undefined;
  /**
   * End the subscriptions when the tab has been hidden for this long, in ms. Default: 10 000. 0 or
   * Infinity: never.
   */
  hiddenAfterMs?: number | undefined;
  /** End a subscription this long after its last user left, in ms. Default: 200. */
  releaseAfterMs?: number | undefined;
}

/** The options of one user of a topic. */
type RetainOptions = Pick<TopicOptions, 'maxRate' | 'keep'>;

interface Entry {
  readonly store: TopicStore;
  /** The users of the subscription. */
  readonly users: Set<RetainOptions>;
  /** Listeners for new states. They keep the state, but not the subscription. */
  readonly listeners: Set<() => void>;
  readonly onPublication: Set<(publication: Publication) => void>;
  sub: Subscription | undefined;
  /** The rate with which `sub` was made. */
  rate: number | undefined;
  /** The server refused or ended the subscription. Tried again for a new user or when the tab is shown. */
  refused: boolean;
}

/**
 * One connection to a nexus-push server and the topics of a page, outside of React. The SDK (`centrifuge`)
 * reconnects, backs off, recovers and handles tokens. This class shares its subscriptions, keeps the state
 * of topics and calls listeners once per animation frame.
 */
export class PushClient {
  /** The SDK's client, for everything that this class does not offer (RPC, publishing, …). */
  readonly centrifuge: Centrifuge;

  readonly #hiddenAfterMs: number;
  readonly #releaseAfterMs: number;
  readonly #connection: ConnectionStore;
  readonly #entries = new Map<string, Entry>();
  readonly #dirty = new Set<Entry>();
  readonly #frame = new FrameScheduler(() => this.#flush());
  #unsettled = new Set<string>();
  #suspended = false;
  #stopWatching: (() => void) | undefined;
  #closeTimer: ReturnType<typeof setTimeout> | undefined;
  #publications = 0;
  #snapshots = 0;
  #represented = 0;
  #flushes = 0;

  /** Creates a client that is not connected yet. */
  constructor(options: PushClientOptions = {}) {
    const { url = defaultUrl(), token, getToken, hiddenAfterMs = 10_000, releaseAfterMs = 200 } = options;
    this.#hiddenAfterMs = hiddenAfterMs;
    this.#releaseAfterMs = releaseAfterMs;
    this.centrifuge = new Centrifuge(url, {
      name: 'nexus-push-react',
      ...options.options,
      ...(token !== undefined && { token }),
      ...(getToken !== undefined && { getToken: () => getToken() }),
    });
    this.#connection = new ConnectionStore(this.centrifuge);
    this.centrifuge.on('message', ({ data }) => this.#onMessage(data));
  }

  /** Connects, and stays connected until `close`. Does nothing if it is already connecting or connected. */
  connect(): void {
    clearTimeout(this.#closeTimer);
    this.#stopWatching ??= watchVisibility(
      this.#hiddenAfterMs,
      () => this.suspend(),
      () => this.resume(),
    );
    this.centrifuge.connect();
  }

  /** Disconnects after `afterMs` (default 0), unless `connect` is called before. Topics are kept. */
  close(afterMs = 0): void {
    clearTimeout(this.#closeTimer);
    if (afterMs > 0) {
      this.#closeTimer = setTimeout(() => this.close(), afterMs);
      return;
    }
    this.#stopWatching?.();
    this.#stopWatching = undefined;
    this.centrifuge.disconnect();
    this.resume();
  }

  /**
   * Keeps the subscription to a topic until the returned function is called. All users of a topic share one
   * subscription; it ends `releaseAfterMs` after the last one left. A topic that the server had refused is
   * tried again.
   */
  retain(topic: string, options: RetainOptions = {}): () => void {
    const entry = this.#entry(topic);
    // A copy, so that two calls with one options object are two users.
    const user = { ...options };
    entry.users.add(user);
    entry.refused = false;
    this.#settleSoon(topic);
    return () => {
      if (entry.users.delete(user)) this.#settleLater(topic);
    };
  }

  /**
   * Calls `listener` when the topic has a new state, at most once per animation frame, until the returned
   * function is called. Does not subscribe at the server: see `retain`. One function may listen to many
   * topics; it is called once per frame.
   */
  subscribe(topic: string, listener: () => void): () => void {
    const entry = this.#entry(topic);
    entry.listeners.add(listener);
    return () => {
      if (entry.listeners.delete(listener)) this.#settleLater(topic);
    };
  }

  /**
   * Calls `fn` with every publication of the topic as it arrives, before batching, until the returned
   * function is called. Retains the topic.
   */
  onPublication<T extends string>(
    topic: T,
    fn: (publication: Publication<PayloadOf<T>>) => void,
    options: RetainOptions = {},
  ): () => void {
    const release = this.retain(topic, options);
    const entry = this.#entry(topic);
    const call = (publication: Publication): void => fn(publication as Publication<PayloadOf<T>>);
    entry.onPublication.add(call);
    return () => {
      entry.onPublication.delete(call);
      release();
    };
  }

  /** The state of a topic as of the last frame; an idle state for a topic without users. */
  getTopicState<T extends string>(topic: T): TopicState<PayloadOf<T>> {
    return (this.peek(topic) ?? idleState(topic)) as TopicState<PayloadOf<T>>;
  }

  /** As `getTopicState`, but `undefined` for a topic without users. */
  peek(topic: string): TopicState<unknown> | undefined {
    return this.#entries.get(topic)?.store.state;
  }

  /** The state of the connection. */
  getConnectionState(): ConnectionState {
    return this.#connection.state;
  }

  /** Calls `listener` at every change of the connection, until the returned function is called. */
  subscribeConnection(listener: () => void): () => void {
    return this.#connection.subscribe(listener);
  }

  /** Counters since the client was created. */
  stats(): PushStats {
    let subscriptions = 0;
    for (const { sub } of this.#entries.values()) if (isActive(sub)) subscriptions++;
    return {
      publications: this.#publications,
      snapshots: this.#snapshots,
      represented: this.#represented,
      flushes: this.#flushes,
      topics: this.#entries.size,
      subscriptions,
    };
  }

  /** Ends all subscriptions; the state of the topics stays. The client does this by itself in a hidden tab. */
  suspend(): void {
    this.#suspended = true;
    this.#settleAll();
  }

  /**
   * Makes the subscriptions that `suspend` ended again. The SDK recovers missed publications by offset and
   * epoch. Topics that the server had refused are tried again.
   */
  resume(): void {
    if (!this.#suspended) return;
    this.#suspended = false;
    for (const entry of this.#entries.values()) entry.refused = false;
    this.#settleAll();
  }

  #entry(topic: string): Entry {
    let entry = this.#entries.get(topic);
    if (entry === undefined) {
      const made: Entry = {
        store: new TopicStore(topic, () => {
          this.#dirty.add(made);
          this.#frame.schedule();
        }),
        users: new Set(),
        listeners: new Set(),
        onPublication: new Set(),
        sub: undefined,
        rate: undefined,
        refused: false,
      };
      entry = made;
      this.#entries.set(topic, entry);
    }
    return entry;
  }

  /** Settles in a microtask, so that all topics of one React commit become one message to the server. */
  #settleSoon(topic: string): void {
    if (this.#unsettled.size === 0) queueMicrotask(() => this.#settleBatch());
    this.#unsettled.add(topic);
  }

  /** Settles after a delay, so that a remount causes no traffic. */
  #settleLater(topic: string): void {
    setTimeout(() => this.#settleSoon(topic), this.#releaseAfterMs);
  }

  #settleAll(): void {
    for (const topic of this.#entries.keys()) this.#settleSoon(topic);
  }

  #settleBatch(): void {
    const topics = this.#unsettled;
    this.#unsettled = new Set();
    this.centrifuge.startBatching();
    for (const topic of topics) {
      const entry = this.#entries.get(topic);
      // In any case, batching must end.
      if (entry !== undefined) guarded(() => this.#settle(topic, entry));
    }
    this.centrifuge.stopBatching();
  }

  /** Makes the subscription match the users of the topic. */
  #settle(topic: string, entry: Entry): void {
    const { store, users } = entry;
    if (users.size > 0) store.keep = Math.max(...[...users].map(({ keep }) => keep ?? DEFAULT_KEEP));
    if (users.size === 0 && entry.listeners.size === 0) {
      this.centrifuge.removeSubscription(entry.sub ?? null);
      this.#entries.delete(topic);
      this.#dirty.delete(entry);
    } else if (users.size === 0 || this.#suspended) {
      // Not removed: an unsubscribed subscription of the SDK keeps its position and recovers from there.
      entry.sub?.unsubscribe();
    } else {
      const rate = highestRate(users);
      if (isActive(entry.sub) && entry.rate !== rate) entry.sub?.unsubscribe();
      if (!isActive(entry.sub) && !entry.refused) {
        entry.sub ??= this.#newSubscription(topic, entry);
        entry.rate = rate;
        entry.sub.setData(rate === undefined ? null : { max_rate: rate });
        entry.sub.subscribe();
      }
    }
  }

  #newSubscription(topic: string, entry: Entry): Subscription {
    const { store, onPublication } = entry;
    return this.centrifuge
      .newSubscription(topic)
      .on('subscribing', () => store.subscribing())
      .on('subscribed', (ctx) =>
        store.subscribed({
          topicClass: classOf(ctx),
          epoch: ctx.streamPosition?.epoch,
          continued: ctx.wasRecovering && ctx.recovered,
        }),
      )
      .on('publication', (ctx) => {
        const publication = publicationOf(topic, ctx);
        this.#publications++;
        this.#represented += publication.conflated;
        if (publication.snapshot) this.#snapshots++;
        guarded(() => store.published(publication));
        for (const fn of [...onPublication]) guarded(fn, publication);
      })
      .on('error', ({ error: { code, message } }) => store.attemptFailed({ code, message }))
      .on('unsubscribed', ({ code, reason }) => {
        // Code 0: unsubscribe() was called.
        if (code === 0) {
          store.released();
        } else {
          entry.refused = true;
          store.refused({ code, message: reason });
        }
      });
  }

  #onMessage(data: unknown): void {
    if (!isObject(data) || typeof data.topic !== 'string') return;
    const store = this.#entries.get(data.topic)?.store;
    if (data.kind === 'stale') store?.stale(typeof data.since === 'number' ? data.since : undefined);
    else if (data.kind === 'fresh') store?.fresh();
  }

  #flush(): void {
    this.#flushes++;
    const listeners = new Set<() => void>();
    for (const entry of this.#dirty) {
      if (entry.store.commit()) for (const listener of entry.listeners) listeners.add(listener);
    }
    this.#dirty.clear();
    for (const listener of listeners) guarded(listener);
  }
}

/** Whether the SDK has the subscription or tries to get it. */
function isActive(sub: Subscription | undefined): boolean {
  return sub !== undefined && sub.state !== SubscriptionState.Unsubscribed;
}

/** The highest rate of all users; `undefined`: unlimited. */
function highestRate(users: ReadonlySet<RetainOptions>): number | undefined {
  const highest = Math.max(...[...users].map(({ maxRate }) => maxRate ?? Number.POSITIVE_INFINITY));
  return Number.isFinite(highest) ? highest : undefined;
}

function classOf({ data }: SubscribedContext): TopicClass | undefined {
  const named: unknown = isObject(data) ? data.class : undefined;
  return named === 'merge' || named === 'latest' || named === 'stream' ? named : undefined;
}

function publicationOf(topic: string, { data, offset, tags }: PublicationContext): Publication {
  return {
    topic,
    data,
    offset,
    time: Date.now(),
    snapshot: tags?.kind === 'snapshot',
    conflated: Number(tags?.conflated) || 1,
  };
}

function defaultUrl(): string {
  // On a server there is no page; the client for rendering never connects.
  const { protocol, host } = globalThis.location ?? { protocol: 'http:', host: 'localhost' };
  return `${protocol === 'https:' ? 'wss' : 'ws'}://${host}/connection/websocket`;
}
