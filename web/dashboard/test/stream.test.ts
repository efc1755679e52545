import type { Publication } from 'nexus-push-react';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { TopicAnswer } from '../src/lib/api';
import { followStream, type StreamBatch, type StreamClient } from '../src/lib/stream';

/** A client whose topic the test drives. */
function fakeClient() {
  let publish: (publication: Publication) => void = () => {};
  let changed = () => {};
  let state: { status: 'idle' | 'subscribing' | 'live'; gap: boolean } = { status: 'idle', gap: false };
  const client: StreamClient = {
    onPublication: (_, fn) => {
      publish = fn;
      return () => {};
    },
    subscribe: (_, listener) => {
      changed = listener;
      return () => {};
    },
    getTopicState: () => state,
  };
  return {
    client,
    set(next: Partial<typeof state>) {
      state = { ...state, ...next };
      changed();
    },
    push(...offsets: number[]) {
      for (const offset of offsets)
        publish({ topic: 't', data: offset, offset, time: 1e6 + offset, snapshot: false, conflated: 1 });
    },
  };
}

const kept = (epoch: string, ...offsets: number[]): TopicAnswer => ({
  epoch,
  data: offsets.map((offset) => ({ offset, ts: offset, data: offset })),
});
const settle = () => vi.advanceTimersByTimeAsync(20);

describe('followStream', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  function setup(answers: (TopicAnswer | Error)[]) {
    const fake = fakeClient();
    const batches: StreamBatch<number>[] = [];
    const position = { offset: -1, epoch: undefined as string | undefined };
    const stop = followStream<number>({
      client: fake.client,
      topic: 't',
      position,
      parse: (data) => data as number,
      read: async () => {
        const answer = answers.shift();
        if (answer === undefined || answer instanceof Error) throw answer ?? new Error('none');
        return answer;
      },
      deliver: (batch) => batches.push(batch),
    });
    const seen = () => batches.flatMap((batch) => batch.items.map((item) => item.offset));
    return { ...fake, batches, position, stop, seen };
  }

  it('puts what was kept before what comes live, each once, with the times of the source', async () => {
    const { set, push, seen, batches } = setup([kept('e', 1, 2, 3)]);
    set({ status: 'live' });
    push(3, 4);
    await settle();
    push(5);
    await settle();
    expect(seen()).toEqual([1, 2, 3, 4, 5]);
    expect(batches[0]?.items[2]?.time).toBe(3);
    expect(batches[0]?.gap).toBe(false);
  });

  it('goes on without the kept events if they cannot be had', async () => {
    const { set, push, seen } = setup([new Error('503')]);
    set({ status: 'live' });
    push(7, 8);
    await settle();
    expect(seen()).toEqual([7, 8]);
  });

  it('fills in what was missed while it was not live', async () => {
    const { set, push, seen, batches } = setup([kept('e', 1), kept('e', 1, 2, 3)]);
    set({ status: 'live' });
    await settle();
    // Arrived, not yet shown when the connection goes.
    push(2);
    set({ status: 'subscribing' });
    set({ status: 'live', gap: true });
    push(4);
    await settle();
    expect(seen()).toEqual([1, 2, 3, 4]);
    // The server could not recover, but what it has kept reaches back far enough.
    expect(batches.some((batch) => batch.gap)).toBe(false);
  });

  it('says so where something may be missing', async () => {
    const { set, push, batches } = setup([kept('e', 1), kept('e', 8, 9)]);
    set({ status: 'live' });
    await settle();
    set({ status: 'subscribing' });
    set({ status: 'live', gap: true });
    push(10);
    await settle();
    expect(batches.at(-1)).toMatchObject({ gap: true, restarted: false });
    expect(batches.at(-1)?.items.map((item) => item.offset)).toEqual([8, 9, 10]);
  });

  it('starts over with a new epoch', async () => {
    const { set, push, batches, seen } = setup([kept('e', 50), kept('f', 1)]);
    set({ status: 'live' });
    await settle();
    set({ status: 'subscribing' });
    set({ status: 'live', gap: true });
    push(2);
    await settle();
    expect(batches.at(-1)?.restarted).toBe(true);
    expect(seen()).toEqual([50, 1, 2]);
  });

  it('starts over where the server does not know the topic any more', async () => {
    const { set, push, batches, seen } = setup([kept('e', 50), { unknown: true }, kept('f', 1, 2)]);
    set({ status: 'live' });
    await settle();
    set({ status: 'subscribing' });
    set({ status: 'live', gap: true });
    await settle();
    push(1);
    await settle();
    expect(seen()).toEqual([50, 1]);
    set({ status: 'subscribing' });
    set({ status: 'live' });
    push(2);
    await settle();
    expect(seen()).toEqual([50, 1, 2]);
    expect(batches.filter((batch) => batch.restarted)).toHaveLength(1);
  });

  it('finds out about a new epoch later, if it could not at once', async () => {
    const { set, push, seen } = setup([kept('e', 50), new Error('503'), kept('f', 1)]);
    set({ status: 'live' });
    await settle();
    set({ status: 'subscribing' });
    set({ status: 'live', gap: true });
    await settle();
    push(1, 2);
    await settle();
    expect(seen()).toEqual([50, 1, 2]);
  });

  it('asks again for what it had not shown when it was stopped', async () => {
    const { set, push, stop, position } = setup([kept('e', 1)]);
    set({ status: 'live' });
    await settle();
    push(2, 3);
    stop();
    expect(position.offset).toBe(1);
  });
});
