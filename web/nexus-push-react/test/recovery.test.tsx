import { describe, expect, it, vi } from 'vitest';
import { useTopic } from '../src/index.js';
import { advance, quotesServer, renderWith, Seen, setHidden } from './harness.js';

function Topic({ topic, seen }: { topic: string; seen: Seen }): null {
  return seen.add(useTopic(topic));
}

describe('after a lost connection', () => {
  it('recovers a merge topic from where it was', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.publish('quotes:A', { data: { bid: '1.1' }, offset: 6 });
    await advance();
    server.drop();
    await advance();
    expect(seen.last).toMatchObject({ status: 'subscribing', data: { bid: '1.1', ask: '2' } });
    server.topic('quotes:A', { class: 'merge', offset: 6, missed: [{ data: { ask: '2.2' }, offset: 7 }] });
    await advance(5_000);
    expect(server.subscribes('quotes:A')[1]).toMatchObject({ recover: true, offset: 6, epoch: 'e1' });
    expect(seen.last).toMatchObject({ status: 'live', data: { bid: '1.1', ask: '2.2' }, offset: 7 });
  });

  it('takes a snapshot instead', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.drop();
    const missed = [{ data: { bid: '8' }, offset: 9, tags: { kind: 'snapshot' } }];
    server.topic('quotes:A', { class: 'merge', offset: 9, missed });
    await advance(5_000);
    expect(seen.last).toMatchObject({ status: 'live', data: { bid: '8' }, offset: 9 });
    expect(seen.last.data).not.toHaveProperty('ask');
  });

  it('does not patch what belongs to another epoch', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.drop();
    server.topic('quotes:A', { class: 'merge', epoch: 'e2', offset: 0, recovers: false });
    await advance(5_000);
    expect(seen.last).toMatchObject({ status: 'live', data: { bid: '1', ask: '2' } });
    server.publish('quotes:A', { data: { bid: '5' }, offset: 1 });
    await advance();
    expect(seen.last.data).toEqual({ bid: '5' });
    server.publish('quotes:A', { data: { ask: '6' }, offset: 2 });
    await advance();
    expect(seen.last.data).toEqual({ bid: '5', ask: '6' });
  });

  it('goes on in an epoch that began with a snapshot', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.publish('quotes:A', {
      data: { bid: '5', ask: '6' },
      offset: 1,
      epoch: 'e2',
      tags: { kind: 'snapshot' },
    });
    await advance();
    server.drop();
    const missed = [{ data: { bid: '7' }, offset: 2 }];
    server.topic('quotes:A', { class: 'merge', epoch: 'e2', offset: 1, missed });
    await advance(5_000);
    expect(server.subscribes('quotes:A')[1]).toMatchObject({ recover: true, offset: 1, epoch: 'e2' });
    expect(seen.last.data).toEqual({ bid: '7', ask: '6' });
  });

  it('gets the missed events of a stream', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="trades:A" seen={seen} />);
    await advance();
    server.publish('trades:A', { data: 1, offset: 10 });
    await advance();
    server.drop();
    server.topic('trades:A', {
      class: 'stream',
      offset: 10,
      missed: [2, 3].map((data) => ({ data, offset: 9 + data })),
    });
    await advance(5_000);
    expect(seen.last.events.map(({ data }) => data)).toEqual([1, 2, 3]);
    expect(seen.last.gap).toBe(false);
  });

  it('tells of a gap in a stream that could not be recovered, until the topic is dropped', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const { rerender } = renderWith(server, <Topic topic="trades:A" seen={seen} />);
    await advance();
    server.publish('trades:A', { data: 1, offset: 10 });
    await advance();
    server.drop();
    server.topic('trades:A', { class: 'stream', epoch: 'e2', offset: 3, recovers: false });
    await advance(5_000);
    expect(seen.last).toMatchObject({ status: 'live', gap: true, data: 1 });
    server.drop();
    server.topic('trades:A', { class: 'stream', epoch: 'e2', offset: 3 });
    await advance(5_000);
    expect(server.subscribes('trades:A')[2]).toMatchObject({ recover: true, offset: 3, epoch: 'e2' });
    expect(seen.last.gap).toBe(true);
    rerender(null);
    await advance(500);
    rerender(<Topic topic="trades:A" seen={seen} />);
    await advance();
    expect(seen.last).toMatchObject({ gap: false, events: [] });
  });
});

describe('a hidden tab', () => {
  it('lets go of its subscriptions and recovers on return', async () => {
    const server = quotesServer();
    const [quote, trades] = [new Seen(), new Seen()];
    renderWith(
      server,
      <>
        <Topic topic="quotes:A" seen={quote} />
        <Topic topic="trades:A" seen={trades} />
      </>,
    );
    await advance();
    server.publish('trades:A', { data: 1, offset: 10 });
    await advance();
    await setHidden(true);
    await advance(9_900);
    expect(server.unsubscribes()).toEqual([]);
    await advance(500);
    expect(server.unsubscribes()).toEqual(['quotes:A', 'trades:A']);
    expect(quote.last).toMatchObject({ status: 'idle', data: { bid: '1' } });
    expect(trades.last).toMatchObject({ status: 'idle', events: [{ data: 1 }] });

    server.topic('quotes:A', { class: 'merge', offset: 5, missed: [{ data: { bid: '1.7' }, offset: 8 }] });
    server.topic('trades:A', { class: 'stream', offset: 10, missed: [{ data: 2, offset: 11 }] });
    await advance(600_000);
    await setHidden(false);
    await advance();
    expect(server.subscribes('quotes:A')[1]).toMatchObject({ recover: true, offset: 5, epoch: 'e1' });
    expect(server.subscribes('trades:A')[1]).toMatchObject({ recover: true, offset: 10, epoch: 'e1' });
    expect(quote.last).toMatchObject({ status: 'live', data: { bid: '1.7', ask: '2' } });
    expect(trades.last.events.map(({ data }) => data)).toEqual([1, 2]);
    expect(trades.last.gap).toBe(false);
    expect(server.commands.filter(({ connect }) => connect)).toHaveLength(1);
  });

  it('keeps them if it is shown again in time', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />, { hiddenAfterMs: 2_000 });
    await advance();
    await setHidden(true);
    await advance(1_500);
    await setHidden(false);
    await advance(60_000);
    expect(server.unsubscribes()).toEqual([]);
    expect(server.subscribes()).toHaveLength(1);
  });

  it.each([0, Number.POSITIVE_INFINITY])(
    'keeps them for ever with hiddenAfterMs %d',
    async (hiddenAfterMs) => {
      const server = quotesServer();
      const seen = new Seen();
      renderWith(server, <Topic topic="quotes:A" seen={seen} />, { hiddenAfterMs });
      await advance();
      await setHidden(true);
      await advance(600_000);
      expect(server.unsubscribes()).toEqual([]);
    },
  );

  it('subscribes to nothing that is mounted meanwhile, until it is shown', async () => {
    const server = quotesServer();
    const seen = new Seen();
    await setHidden(true);
    const { rerender } = renderWith(server, null);
    await advance(11_000);
    rerender(<Topic topic="quotes:A" seen={seen} />);
    await advance(1_000);
    expect(server.subscribes()).toEqual([]);
    await setHidden(false);
    await advance();
    expect(seen.last.status).toBe('live');
  });

  it('forgets that a topic was stale: the server says so again if it still is', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.message({ kind: 'stale', topic: 'quotes:A', since: 1 });
    await setHidden(true);
    await advance(11_000);
    expect(seen.last).toMatchObject({ status: 'idle', stale: true });
    await setHidden(false);
    await advance();
    expect(seen.last).toMatchObject({ status: 'live', stale: false });
  });

  it('still tells of changes where no animation frames come', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    vi.stubGlobal('requestAnimationFrame', () => 1);
    server.publish('quotes:A', { data: { bid: '3' }, offset: 6 });
    await advance(200);
    expect(seen.last.data).toMatchObject({ bid: '1' });
    await advance(100);
    expect(seen.last.data).toMatchObject({ bid: '3' });
    vi.stubGlobal('requestAnimationFrame', undefined);
    server.publish('quotes:A', { data: { bid: '4' }, offset: 7 });
    await advance(20);
    expect(seen.last.data).toMatchObject({ bid: '4' });
    vi.unstubAllGlobals();
  });
});
