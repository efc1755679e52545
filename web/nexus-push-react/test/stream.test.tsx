import { describe, expect, it } from 'vitest';
import { type TopicOptions, useTopic } from '../src/index.js';
import { advance, quotesServer, renderWith, Seen } from './harness.js';

function Trades({ options, seen }: { options?: TopicOptions; seen: Seen }): null {
  return seen.add(useTopic('trades:A', options));
}

const ids = ({ last }: Seen): unknown[] => last.events.map(({ data }) => (data as { id: number }).id);

describe('a stream', () => {
  it('keeps all events of a frame, in order', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Trades seen={seen} />);
    await advance();
    expect(seen.last).toMatchObject({ status: 'live', data: undefined, events: [], gap: false });
    const count = seen.count;
    for (let id = 1; id <= 3; id++) server.publish('trades:A', { data: { id }, offset: 9 + id });
    await advance();
    expect(seen.count).toBe(count + 1);
    expect(ids(seen)).toEqual([1, 2, 3]);
    expect(seen.last.events[0]).toEqual({ offset: 10, time: expect.any(Number), data: { id: 1 } });
    expect(seen.last).toMatchObject({ data: { id: 3 }, offset: 12 });
    const before = seen.last.events;
    server.publish('trades:A', { data: { id: 4 }, offset: 13 });
    await advance();
    expect(ids(seen)).toEqual([1, 2, 3, 4]);
    expect(before).toHaveLength(3);
  });

  it('keeps 100 events by default', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Trades seen={seen} />);
    await advance();
    for (let id = 1; id <= 1000; id++) server.publish('trades:A', { data: { id }, offset: 9 + id });
    await advance();
    expect(seen.last.events).toHaveLength(100);
    expect(ids(seen)[0]).toBe(901);
  });

  it('shows each user as many events as it asked for', async () => {
    const server = quotesServer();
    const [few, more, none] = [new Seen(), new Seen(), new Seen()];
    renderWith(
      server,
      <>
        <Trades options={{ keep: 2 }} seen={few} />
        <Trades options={{ keep: 4 }} seen={more} />
        <Trades options={{ keep: 0 }} seen={none} />
      </>,
    );
    await advance();
    for (let id = 1; id <= 9; id++) server.publish('trades:A', { data: { id }, offset: 9 + id });
    await advance();
    expect(ids(few)).toEqual([8, 9]);
    expect(ids(more)).toEqual([6, 7, 8, 9]);
    expect(ids(none)).toEqual([]);
    expect(none.last.data).toEqual({ id: 9 });
  });

  it('takes the kept events of a snapshot', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Trades seen={seen} />);
    await advance();
    server.publish('trades:A', { data: { id: 1 }, offset: 10 });
    const data = [
      { offset: 1, ts: 111, data: { id: 7 } },
      { offset: 2, ts: 222, data: { id: 8 } },
    ];
    server.publish('trades:A', { data, offset: 2, tags: { kind: 'snapshot' } });
    await advance();
    expect(ids(seen)).toEqual([7, 8]);
    expect(seen.last).toMatchObject({ data: { id: 8 }, events: [{ time: 111 }, { time: 222 }] });
  });
});
