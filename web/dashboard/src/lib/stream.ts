// Follows a stream topic without losing or repeating an event: first the kept events (REST), then the live ones.
//
// Unlike live deliveries, the REST answer has the time at the source and the epoch. So after every
// interruption it is requested again, and events that come meanwhile wait for it.
import type { Publication, TopicStatus } from 'nexus-push-react';
import type { TopicAnswer } from './api';
import { FrameScheduler } from './frame';

/** An event with its position. */
export interface StreamItem<P> {
  offset: number;
  /** Unix ms at the source if known, otherwise of arrival. */
  time: number;
  data: P;
}

/** Events that belong together, oldest first, none of them delivered before. */
export interface StreamBatch<P> {
  items: readonly StreamItem<P>[];
  /** Events may be missing before these. */
  gap: boolean;
  /** The stream has a new epoch: offsets start over. */
  restarted: boolean;
}

/** How far a stream has been followed. Pass the same object again to continue from there. */
export interface StreamPosition {
  offset: number;
  epoch: string | undefined;
}

/** The part of `PushClient` that is used; small, so that tests need no server. */
export interface StreamClient {
  onPublication(
    topic: string,
    fn: (publication: Publication) => void,
    options?: { keep?: number },
  ): () => void;
  subscribe(topic: string, listener: () => void): () => void;
  getTopicState(topic: string): { status: TopicStatus; gap: boolean };
}

/** Options of `followStream`. */
export interface FollowOptions<P> {
  client: StreamClient;
  topic: string;
  position: StreamPosition;
  /** Converts an event's data, whatever it contains. Does not throw. */
  parse: (data: unknown) => P;
  /** Requests the kept events. */
  read: (topic: string, signal: AbortSignal) => Promise<TopicAnswer>;
  /** Called at most once per frame. */
  deliver: (batch: StreamBatch<P>) => void;
}

/** Longest wait for the kept events before the live ones are shown without them. */
const READ_TIMEOUT_MS = 4000;

/** Follows a topic until the returned function is called. */
export function followStream<P>(options: FollowOptions<P>): () => void {
  const { client, topic, position, parse, read, deliver } = options;
  let pending: StreamItem<P>[] = [];
  // Until the kept events have come, live ones wait.
  let holding = true;
  let wasLive = false;
  // The kept events could not be read, so the epoch may have changed.
  let unsure = false;
  // The marks of the next batch.
  let gap = false;
  let restarted = false;
  let abort: AbortController | undefined;

  function hand(items: readonly StreamItem<P>[]): void {
    const batch = { items, gap, restarted };
    gap = false;
    restarted = false;
    deliver(batch);
  }

  function flush(): void {
    if (holding || pending.length === 0) return;
    const items = pending;
    pending = [];
    hand(items);
  }
  const frame = new FrameScheduler(flush);

  function hold(): void {
    flush();
    holding = true;
  }

  async function catchUp(): Promise<void> {
    abort?.abort();
    const mine = new AbortController();
    abort = mine;
    const timeout = setTimeout(() => mine.abort(), READ_TIMEOUT_MS);
    let answer: TopicAnswer | undefined;
    try {
      answer = await read(topic, mine.signal);
    } catch {
      // Without the answer, only live events are shown.
    } finally {
      clearTimeout(timeout);
    }
    if (abort !== mine) return;
    abort = undefined;

    unsure = answer === undefined;
    const kept = keptItems(answer, parse);
    if (position.offset >= 0 && startedOver(answer)) {
      restarted = true;
      position.offset = -1;
    } else if (missing(kept)) {
      gap = true;
    }
    if (answer !== undefined) position.epoch = answer.epoch;

    const byOffset = new Map<number, StreamItem<P>>();
    for (const item of pending) byOffset.set(item.offset, item);
    // Second, because these have the time at the source.
    for (const item of kept) byOffset.set(item.offset, item);
    const items = [...byOffset.values()]
      .filter((item) => item.offset > position.offset)
      .sort((a, b) => a.offset - b.offset);
    pending = [];
    holding = false;
    const newest = items[items.length - 1];
    if (newest === undefined) return;
    position.offset = newest.offset;
    hand(items);
  }

  /** The offsets of the answer cannot be compared with the position. */
  function startedOver(answer: TopicAnswer | undefined): boolean {
    if (answer?.unknown === true) return true;
    return answer?.epoch !== undefined && position.epoch !== undefined && answer.epoch !== position.epoch;
  }

  /** The server could not recover, and its kept events do not reach back to this page's position. */
  function missing(kept: readonly StreamItem<P>[]): boolean {
    if (position.offset < 0 || !client.getTopicState(topic).gap) return false;
    const oldest = kept[0];
    return oldest === undefined || oldest.offset > position.offset + 1;
  }

  const stopListening = client.subscribe(topic, () => {
    const live = client.getTopicState(topic).status === 'live';
    if (live && !wasLive) void catchUp();
    // From here on events may be missing, until the kept ones are requested.
    if (!live && wasLive) hold();
    wasLive = live;
  });

  const stopPublications = client.onPublication(
    topic,
    (publication) => {
      // The kept events of a new epoch: request them in the form that is read here.
      if (publication.snapshot) {
        hold();
        void catchUp();
        return;
      }
      const { offset, time, data } = publication;
      if (offset === undefined) return;
      if (!holding && offset <= position.offset) {
        // Seen before, unless this is another epoch.
        if (!unsure) return;
        hold();
        void catchUp();
      }
      if (!holding) position.offset = offset;
      pending.push({ offset, time, data: parse(data) });
      frame.schedule();
    },
    // The package keeps no events for this user; they pass through.
    { keep: 0 },
  );

  // The topic may be live already, because another part of the page follows it.
  if (client.getTopicState(topic).status === 'live') {
    wasLive = true;
    void catchUp();
  }

  return () => {
    abort?.abort();
    abort = undefined;
    frame.cancel();
    stopPublications();
    stopListening();
    // Events that arrived but were not shown are requested again the next time.
    const first = pending[0];
    if (!holding && first !== undefined) position.offset = Math.min(position.offset, first.offset - 1);
  };
}

function keptItems<P>(answer: TopicAnswer | undefined, parse: (data: unknown) => P): StreamItem<P>[] {
  if (!Array.isArray(answer?.data)) return [];
  const items: StreamItem<P>[] = [];
  for (const event of answer.data as { offset?: unknown; ts?: unknown; data?: unknown }[]) {
    if (typeof event?.offset !== 'number') continue;
    items.push({
      offset: event.offset,
      time: typeof event.ts === 'number' ? event.ts : Date.now(),
      data: parse(event.data),
    });
  }
  return items;
}
