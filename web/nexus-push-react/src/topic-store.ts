import { applyMergePatch, isObject } from './merge.js';
import type { Publication, PushError, StreamEvent, TopicClass, TopicState } from './types.js';

/** Default number of stream events that are kept. */
export const DEFAULT_KEEP = 100;

/** The data of a confirmed subscription that the store needs. */
export interface SubscribedInfo {
  /** Class of the topic, if the server sends it. */
  readonly topicClass: TopicClass | undefined;
  readonly epoch: string | undefined;
  /** The server continued from the requested position: nothing was missed. */
  readonly continued: boolean;
}

/** The state of a topic without any data. */
export function idleState(topic: string): TopicState<unknown> {
  return {
    topic,
    status: 'idle',
    data: undefined,
    events: [],
    offset: undefined,
    time: undefined,
    stale: false,
    staleSince: undefined,
    gap: false,
    error: undefined,
  };
}

/** The last `count` events. */
export function newest<P>(events: readonly StreamEvent<P>[], count: number): readonly StreamEvent<P>[] {
  if (events.length <= count) return events;
  return count > 0 ? events.slice(-count) : [];
}

/**
 * The state of one topic. Changes go into a draft; `commit` makes the draft the visible `state`. So all
 * readers see the same state until the next frame.
 */
export class TopicStore {
  /** The visible state; `undefined` until the first commit. */
  state: TopicState<unknown> | undefined;
  /** How many stream events are kept. */
  keep = DEFAULT_KEEP;

  #draft: TopicState<unknown>;
  #arrived: StreamEvent<unknown>[] = [];
  #class: TopicClass | undefined;
  /** Epoch of the stored data, if known. */
  #epoch: string | undefined;
  #firstIsNext = false;
  #subscribedBefore = false;
  /** The next patch was not made for the stored data. */
  #baseLost = false;
  readonly #changed: () => void;

  /** `changed` is called after every change of the draft. */
  constructor(topic: string, changed: () => void) {
    this.#draft = idleState(topic);
    this.#changed = changed;
  }

  /** Makes the draft the visible state. Returns whether that changed anything. */
  commit(): boolean {
    if (this.#arrived.length > 0) {
      const events = [...this.#draft.events, ...this.#arrived];
      this.#draft = { ...this.#draft, events: newest(events, this.keep) };
      this.#arrived = [];
    }
    if (this.#draft === this.state) return false;
    this.state = this.#draft;
    return true;
  }

  /** The subscription was requested, or is requested again after a lost connection. */
  subscribing(): void {
    this.#update({ status: 'subscribing', error: undefined });
  }

  /** The subscription is confirmed. */
  subscribed(info: SubscribedInfo): void {
    if (info.topicClass !== undefined) this.#setClass(info.topicClass);
    const replaceable = this.#class === 'merge' || this.#class === 'latest';
    const gap = this.#draft.gap || (this.#subscribedBefore && !info.continued && !replaceable);
    // In another epoch the server may have no data yet, so that no snapshot comes. The stored data stays
    // visible, but the next patch is not made for it. A topic without publications has an empty epoch.
    const epoch = info.epoch || undefined;
    const epochChanged = this.#epoch !== undefined && epoch !== undefined && epoch !== this.#epoch;
    this.#baseLost ||= !info.continued || epochChanged;
    this.#epoch = epoch;
    this.#firstIsNext = true;
    this.#subscribedBefore = true;
    // If the topic is stale, the server sends the notice again; a `fresh` in the meantime was missed.
    this.#update({ status: 'live', error: undefined, stale: false, staleSince: undefined, gap });
  }

  /** A publication arrived. */
  published(pub: Publication): void {
    if (pub.snapshot && this.#class === undefined) this.#setClass(isObject(pub.data) ? 'merge' : 'latest');
    // An unrequested snapshot may begin a new epoch. The SDK follows it, but does not report it.
    if (pub.snapshot && !this.#firstIsNext) this.#epoch = undefined;
    this.#firstIsNext = false;
    const position = { offset: pub.offset ?? this.#draft.offset, time: pub.time };
    if (this.#class === 'merge') {
      const data = pub.snapshot
        ? pub.data
        : applyMergePatch(this.#baseLost ? undefined : this.#draft.data, pub.data);
      this.#update({ ...position, data });
    } else if (this.#class === 'latest') {
      this.#update({ ...position, data: pub.data });
    } else if (pub.snapshot) {
      // These events are of a new epoch: the stored ones belong to the old epoch.
      const events = keptEvents(pub);
      this.#arrived = [];
      this.#update({ ...position, data: events.at(-1)?.data, events: newest(events, this.keep) });
    } else {
      this.#arrived.push({ offset: pub.offset, time: pub.time, data: pub.data });
      // Frames can be far apart in a hidden tab. Cut only now and then, because each cut copies.
      if (this.#arrived.length >= 2 * this.keep + 100) this.#arrived = [...newest(this.#arrived, this.keep)];
      this.#update({ ...position, data: pub.data });
    }
    this.#baseLost = false;
    // A delta ends the stale state. A snapshot does not: the server also sends it for a stale topic.
    if (!pub.snapshot && this.#draft.stale) this.fresh();
  }

  /** The last attempt to subscribe failed; the SDK tries again. */
  attemptFailed(error: PushError): void {
    // Later, the cause can be a token that could not be refreshed yet. That does not end the subscription.
    if (this.#draft.status === 'subscribing') this.#update({ error });
  }

  /** The server refused or ended the subscription. */
  refused(error: PushError): void {
    this.#update({ status: 'error', error });
  }

  /** The subscription ended on request. The data stays. */
  released(): void {
    this.#update({ status: 'idle', error: undefined });
  }

  /** The topic has been quiet since then (Unix ms). */
  stale(since: number | undefined): void {
    this.#update({ stale: true, staleSince: since });
  }

  /** The topic is no longer quiet. */
  fresh(): void {
    this.#update({ stale: false, staleSince: undefined });
  }

  #setClass(topicClass: TopicClass): void {
    if (this.#class === topicClass) return;
    this.#class = topicClass;
    if (topicClass !== 'stream' && (this.#arrived.length > 0 || this.#draft.events.length > 0)) {
      this.#arrived = [];
      this.#update({ events: [] });
    }
  }

  #update(change: Partial<TopicState<unknown>>): void {
    const keys = Object.keys(change) as (keyof TopicState<unknown>)[];
    if (this.#arrived.length === 0 && keys.every((key) => Object.is(this.#draft[key], change[key]))) return;
    this.#draft = { ...this.#draft, ...change };
    this.#changed();
  }
}

/** The events in the snapshot of a stream: `[{"offset":…,"ts":…,"data":…},…]`. */
function keptEvents(pub: Publication): StreamEvent<unknown>[] {
  if (!Array.isArray(pub.data)) return [{ offset: pub.offset, time: pub.time, data: pub.data }];
  return pub.data.filter(isObject).map((event) => ({
    offset: typeof event.offset === 'number' ? event.offset : undefined,
    time: typeof event.ts === 'number' ? event.ts : pub.time,
    data: event.data,
  }));
}
