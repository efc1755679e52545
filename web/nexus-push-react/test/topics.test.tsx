import { type ReactElement, StrictMode } from 'react';
import { renderToString } from 'react-dom/server';
import { describe, expect, it, vi } from 'vitest';
import {
  PushClient,
  PushProvider,
  type TopicOptions,
  type TopicState,
  usePushClient,
  useTopic,
  useTopics,
} from '../src/index.js';
import { advance, quotesServer, renderWith, Seen } from './harness.js';

function Topic({ topic, options, seen }: { topic: string; options?: TopicOptions; seen: Seen }): null {
  return seen.add(useTopic(topic, options));
}

const bidOf = ({ data }: TopicState<unknown>): unknown => (data as { bid?: unknown } | undefined)?.bid;

function Bid({ seen }: { seen: Seen<unknown> }): null {
  return seen.add(useTopic('quotes:A', { select: bidOf }));
}

function BidObject({ seen }: { seen: Seen<{ bid: unknown }> }): null {
  return seen.add(useTopic('quotes:A', { select: (state) => ({ bid: bidOf(state) }) }));
}

type States = ReadonlyMap<string, TopicState<unknown>>;

function Topics({ topics, seen }: { topics: string[]; seen: Seen<States> }): null {
  return seen.add(useTopics(topics));
}

function Status(): ReactElement {
  return <b>{useTopic('quotes:A').status}</b>;
}

function Client({ seen }: { seen: Seen<PushClient> }): null {
  return seen.add(usePushClient());
}

describe('useTopic', () => {
  it('shows the snapshot and then the patched object', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    expect(seen.last).toMatchObject({ topic: 'quotes:A', status: 'idle', data: undefined });
    await advance();
    expect(seen.last).toMatchObject({ status: 'live', data: { bid: '1', ask: '2' }, offset: 5, events: [] });
    expect(seen.last.time).toBeTypeOf('number');

    const before = seen.last.data as { size: object };
    server.publish('quotes:A', { data: { bid: '1.5', ask: null }, offset: 6 });
    await advance();
    expect(seen.last).toMatchObject({ data: { bid: '1.5', size: { b: '7' } }, offset: 6 });
    expect(seen.last.data).not.toHaveProperty('ask');
    expect(before).toEqual({ bid: '1', ask: '2', size: { b: '7' } });
    expect((seen.last.data as typeof before).size).toBe(before.size);
  });

  it('replaces the state by a later snapshot', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.publish('quotes:A', { data: { last: '9' }, offset: 7, tags: { kind: 'snapshot' } });
    await advance();
    expect(seen.last.data).toEqual({ last: '9' });
  });

  it('shows the newest value of a latest topic', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="rates:A" seen={seen} />);
    await advance();
    expect(seen.last.data).toBe(1.5);
    server.publish('rates:A', { data: { value: 2 }, offset: 3 });
    server.publish('rates:A', { data: { other: 3 }, offset: 4 });
    await advance();
    expect(seen.last.data).toEqual({ other: 3 });
  });

  it('goes by what arrives where the server does not tell the class', async () => {
    const server = quotesServer();
    server.topic('x:object', { snapshot: { a: 1 } });
    server.topic('x:value', { snapshot: 1 });
    server.topic('x:none', {});
    const [object, value, none] = [new Seen(), new Seen(), new Seen()];
    renderWith(
      server,
      <>
        <Topic topic="x:object" seen={object} />
        <Topic topic="x:value" seen={value} />
        <Topic topic="x:none" seen={none} />
      </>,
    );
    await advance();
    server.publish('x:object', { data: { b: 2 }, offset: 1 });
    server.publish('x:value', { data: 2, offset: 1 });
    server.publish('x:none', { data: 'a', offset: 1 });
    server.publish('x:none', { data: 'b', offset: 2 });
    await advance();
    expect(object.last.data).toEqual({ a: 1, b: 2 });
    expect(value.last.data).toBe(2);
    expect(none.last).toMatchObject({ data: 'b', events: [{ data: 'a' }, { data: 'b' }] });
  });

  it('shares one subscription, and lets go of it after the last user', async () => {
    const server = quotesServer();
    const [one, two] = [new Seen(), new Seen()];
    const both = (
      <>
        <Topic key="1" topic="quotes:A" seen={one} />
        <Topic key="2" topic="quotes:A" seen={two} />
      </>
    );
    const { rerender } = renderWith(server, both);
    await advance();
    expect(server.subscribes('quotes:A')).toHaveLength(1);
    expect(one.last).toBe(two.last);

    rerender(<Topic key="2" topic="quotes:A" seen={two} />);
    await advance(1_000);
    expect(server.unsubscribes()).toEqual([]);

    rerender(null);
    await advance(150);
    expect(server.unsubscribes()).toEqual([]);
    await advance(100);
    expect(server.unsubscribes()).toEqual(['quotes:A']);
  });

  it('starts afresh, without recovery, when a topic is used again after it was dropped', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const { rerender } = renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    rerender(null);
    await advance(500);
    rerender(<Topic topic="quotes:A" seen={seen} />);
    expect(seen.last).toMatchObject({ status: 'idle', data: undefined });
    await advance();
    expect(seen.last).toMatchObject({ status: 'live', data: { bid: '1' } });
    expect(server.subscribes('quotes:A')).toHaveLength(2);
    expect(server.subscribes('quotes:A')[1]?.recover).toBeUndefined();
  });

  it('follows a changed topic', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const { rerender } = renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    rerender(<Topic topic="quotes:B" seen={seen} />);
    expect(seen.last).toMatchObject({ topic: 'quotes:B', status: 'idle', data: undefined });
    await advance(500);
    expect(seen.last).toMatchObject({ topic: 'quotes:B', status: 'live', data: { bid: '10' } });
    expect(server.unsubscribes()).toEqual(['quotes:A']);
  });

  it('does not flap under StrictMode or when the same topics are mounted elsewhere', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const { rerender } = renderWith(
      server,
      <StrictMode>
        <Topic key="1" topic="quotes:A" seen={seen} />
      </StrictMode>,
    );
    await advance(500);
    rerender(
      <StrictMode>
        <Topic key="2" topic="quotes:A" seen={seen} />
      </StrictMode>,
    );
    await advance(500);
    expect(seen.last.status).toBe('live');
    expect(server.subscribes()).toHaveLength(1);
    expect(server.unsubscribes()).toEqual([]);
    expect(server.commands.filter(({ connect }) => connect)).toHaveLength(1);
  });

  it('keeps the connection under StrictMode around the provider', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const client = new PushClient({ url: 'ws://test', options: { websocket: server.websocket } });
    const { rerender } = renderWith(
      server,
      <StrictMode>
        <PushProvider url="ws://test" options={{ websocket: server.websocket }}>
          <Topic topic="quotes:A" seen={seen} />
        </PushProvider>
      </StrictMode>,
      { client },
    );
    await advance(500);
    expect(seen.last.status).toBe('live');
    // One of the outer provider, one of the inner one.
    expect(server.commands.filter(({ connect }) => connect)).toHaveLength(2);
    rerender(null);
    await advance(500);
    // A client of one's own stays connected.
    expect(client.getConnectionState().status).toBe('connected');
    client.close();
  });

  it('renders once per frame, and only the component whose topic changed', async () => {
    const server = quotesServer();
    const [a, b] = [new Seen(), new Seen()];
    renderWith(
      server,
      <>
        <Topic topic="quotes:A" seen={a} />
        <Topic topic="quotes:B" seen={b} />
      </>,
    );
    await advance();
    const [countA, countB] = [a.count, b.count];
    for (let i = 0; i < 200; i++) server.publish('quotes:A', { data: { bid: String(i) }, offset: 6 + i });
    await advance();
    expect(a.last.data).toMatchObject({ bid: '199' });
    expect(a.count).toBe(countA + 1);
    expect(b.count).toBe(countB);
  });

  it('subscribes to what is mounted together in one message', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const { rerender } = renderWith(server, null);
    await advance();
    const before = server.frames;
    rerender(
      <>
        <Topic topic="quotes:A" seen={seen} />
        <Topic topic="quotes:B" seen={seen} />
        <Topic topic="trades:A" seen={seen} />
      </>,
    );
    await advance();
    expect(server.subscribes()).toHaveLength(3);
    expect(server.frames).toBe(before + 1);
  });

  it('does nothing while not enabled, and keeps what it has when disabled', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const at = (enabled: boolean): ReactElement => (
      <Topic topic="quotes:A" options={{ enabled }} seen={seen} />
    );
    const { rerender } = renderWith(server, at(false));
    await advance();
    expect(seen.last.status).toBe('idle');
    expect(server.subscribes()).toEqual([]);
    rerender(at(true));
    await advance();
    expect(seen.last.status).toBe('live');
    rerender(at(false));
    await advance(500);
    expect(server.unsubscribes()).toEqual(['quotes:A']);
    expect(seen.last).toMatchObject({ status: 'idle', data: { bid: '1' } });
    rerender(at(true));
    await advance();
    expect(server.subscribes('quotes:A')[1]).toMatchObject({ recover: true, offset: 5, epoch: 'e1' });
  });

  it('asks for the highest rate of all users', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const at = (...rates: (number | undefined)[]): ReactElement[] =>
      rates.map((maxRate, i) => <Topic key={String(i)} topic="quotes:A" options={{ maxRate }} seen={seen} />);
    const { rerender } = renderWith(server, at(2, 5));
    await advance();
    expect(server.subscribes().map(({ data }) => data)).toEqual([{ max_rate: 5 }]);
    rerender(at(2, 5, undefined));
    await advance();
    expect(server.subscribes()).toHaveLength(2);
    expect(server.subscribes()[1]).toMatchObject({ recover: true, offset: 5 });
    expect(server.subscribes()[1]?.data).toBeUndefined();
    rerender(at(2));
    await advance(500);
    expect(server.subscribes()[2]?.data).toEqual({ max_rate: 2 });
    expect(seen.last).toMatchObject({ status: 'live', data: { bid: '1' } });
  });

  it('renders what select returns, only when that changed', async () => {
    const server = quotesServer();
    const seen = new Seen<unknown>();
    renderWith(server, <Bid seen={seen} />);
    await advance();
    expect(seen.all).toEqual([undefined, '1']);
    server.publish('quotes:A', { data: { ask: '3' }, offset: 6 });
    await advance();
    expect(seen.count).toBe(2);
    server.publish('quotes:A', { data: { bid: '1.1' }, offset: 7 });
    await advance();
    expect(seen.all).toEqual([undefined, '1', '1.1']);
  });

  it('allows select to return a new object every time', async () => {
    const server = quotesServer();
    const seen = new Seen<{ bid: unknown }>();
    renderWith(server, <BidObject seen={seen} />);
    await advance();
    expect(seen.last).toEqual({ bid: '1' });
    expect(seen.count).toBeLessThan(5);
  });

  it('marks a topic stale and fresh again', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.message({ kind: 'stale', topic: 'quotes:A', since: 123 });
    await advance();
    expect(seen.last).toMatchObject({ stale: true, staleSince: 123, data: { bid: '1' } });
    server.message({ kind: 'fresh', topic: 'quotes:A' });
    await advance();
    expect(seen.last).toMatchObject({ stale: false, staleSince: undefined });
    server.message({ kind: 'stale', topic: 'quotes:A', since: 456 });
    server.publish('quotes:A', { data: { bid: '4' }, offset: 6 });
    await advance();
    expect(seen.last.stale).toBe(false);
    // Of a topic that is not used.
    server.message({ kind: 'stale', topic: 'quotes:Z', since: 123 });
    await advance();
  });

  it('shows why a subscription was refused, and tries again for a new user', async () => {
    const server = quotesServer();
    server.topic('private:A', { error: { code: 103, message: 'permission denied' } });
    const seen = new Seen();
    const { rerender } = renderWith(server, <Topic key="1" topic="private:A" seen={seen} />);
    await advance();
    expect(seen.last).toMatchObject({ status: 'error', error: { code: 103, message: 'permission denied' } });
    await advance(60_000);
    expect(server.subscribes('private:A')).toHaveLength(1);
    server.topic('private:A', { class: 'merge', snapshot: { ok: true } });
    rerender([
      <Topic key="1" topic="private:A" seen={seen} />,
      <Topic key="2" topic="private:A" seen={seen} />,
    ]);
    await advance();
    expect(seen.last).toMatchObject({ status: 'live', data: { ok: true }, error: undefined });
  });

  it('shows a passing error while the SDK tries again', async () => {
    const server = quotesServer();
    server.topic('quotes:A', { error: { code: 100, message: 'busy', temporary: true } });
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    expect(seen.last).toMatchObject({ status: 'subscribing', error: { code: 100, message: 'busy' } });
    server.topic('quotes:A', { class: 'merge', snapshot: { bid: '1' } });
    await advance(5_000);
    expect(seen.last).toMatchObject({ status: 'live', error: undefined });
  });

  it('shows that the server ended the subscription', async () => {
    const server = quotesServer();
    const seen = new Seen();
    renderWith(server, <Topic topic="quotes:A" seen={seen} />);
    await advance();
    server.send({ push: { channel: 'quotes:A', unsubscribe: { code: 2000, reason: 'no more' } } });
    await advance();
    expect(seen.last).toMatchObject({
      status: 'error',
      error: { code: 2000, message: 'no more' },
      data: { bid: '1' },
    });
  });

  it('renders on a server', () => {
    const html = renderToString(
      <PushProvider url="ws://test">
        <Status />
      </PushProvider>,
    );
    expect(html).toBe('<b>idle</b>');
  });
});

describe('useTopics', () => {
  it('holds the states of all topics in one map', async () => {
    const server = quotesServer();
    const seen = new Seen<States>();
    const { rerender } = renderWith(server, <Topics topics={['quotes:B', 'quotes:A']} seen={seen} />);
    await advance();
    const before = seen.last;
    expect([...before.keys()]).toEqual(['quotes:B', 'quotes:A']);
    expect(before.get('quotes:A')?.data).toMatchObject({ bid: '1' });

    // The same map as long as nothing changed, for a new array too.
    rerender(<Topics topics={['quotes:B', 'quotes:A']} seen={seen} />);
    expect(seen.last).toBe(before);

    const count = seen.count;
    server.publish('quotes:A', { data: { bid: '3' }, offset: 6 });
    server.publish('quotes:B', { data: { bid: '4' }, offset: 6 });
    server.publish('quotes:A', { data: { bid: '5' }, offset: 7 });
    await advance();
    expect(seen.count).toBe(count + 1);
    expect(seen.last.get('quotes:A')?.data).toMatchObject({ bid: '5' });

    const state = seen.last.get('quotes:B');
    server.publish('quotes:A', { data: { bid: '6' }, offset: 8 });
    await advance();
    expect(seen.last.get('quotes:B')).toBe(state);
  });

  it('follows a changed list without asking again for what stays', async () => {
    const server = quotesServer();
    const seen = new Seen<States>();
    const { rerender } = renderWith(server, <Topics topics={['quotes:A', 'quotes:A']} seen={seen} />);
    await advance();
    rerender(<Topics topics={['quotes:A', 'quotes:B']} seen={seen} />);
    expect(seen.last.get('quotes:A')?.data).toMatchObject({ bid: '1' });
    await advance(500);
    rerender(<Topics topics={['quotes:B']} seen={seen} />);
    await advance(500);
    expect(server.subscribes().map(({ channel }) => channel)).toEqual(['quotes:A', 'quotes:B']);
    expect(server.unsubscribes()).toEqual(['quotes:A']);
    rerender(<Topics topics={[]} seen={seen} />);
    expect(seen.last.size).toBe(0);
  });
});

describe('PushClient', () => {
  it('hands on raw publications, and survives a listener that throws', async () => {
    const server = quotesServer();
    const client = new PushClient({ url: 'ws://test', options: { websocket: server.websocket } });
    client.connect();
    const publications: unknown[] = [];
    const off = client.onPublication('quotes:A', (publication) => publications.push(publication));
    const offBad = client.onPublication('quotes:A', () => {
      throw new Error('of the application');
    });
    const uncaught = vi.fn();
    vi.stubGlobal('reportError', uncaught);
    await advance();
    expect(publications).toEqual([
      expect.objectContaining({ topic: 'quotes:A', snapshot: true, conflated: 1 }),
    ]);
    expect(uncaught).toHaveBeenCalledOnce();
    vi.unstubAllGlobals();
    offBad();
    server.publish('quotes:A', { data: { bid: '2' }, offset: 6, tags: { conflated: '6' } });
    expect(publications).toHaveLength(1);
    await advance();
    expect(publications[1]).toMatchObject({ data: { bid: '2' }, snapshot: false, offset: 6, conflated: 6 });
    expect(client.getTopicState('quotes:A').data).toMatchObject({ bid: '2' });
    expect(client.stats()).toMatchObject({
      publications: 2,
      snapshots: 1,
      represented: 7,
      topics: 1,
      subscriptions: 1,
    });
    off();
    await advance(500);
    expect(client.stats()).toMatchObject({ topics: 0, subscriptions: 0 });
    expect(client.getTopicState('quotes:A').status).toBe('idle');
    client.close();
  });

  it('is given by usePushClient, which needs a provider', () => {
    const client = new PushClient({ url: 'ws://test' });
    const seen = new Seen<PushClient>();
    renderToString(
      <PushProvider client={client}>
        <Client seen={seen} />
      </PushProvider>,
    );
    expect(seen.last).toBe(client);
    expect(() => renderToString(<Client seen={seen} />)).toThrow('PushProvider');
  });

  it('connects to the host of the page by default', () => {
    const sockets: string[] = [];
    function websocket(url: string): void {
      sockets.push(url);
    }
    const client = new PushClient({ options: { websocket } });
    client.connect();
    expect(sockets).toEqual([`ws://${location.host}/connection/websocket`]);
    client.close();
  });
});
