import { describe, expect, it, vi } from 'vitest';
import { type ConnectionState, useConnection, useTopic } from '../src/index.js';
import { advance, quotesServer, renderWith, Seen } from './harness.js';

function Connection({ seen }: { seen: Seen<ConnectionState> }): null {
  return seen.add(useConnection());
}

function Topic({ seen }: { seen: Seen }): null {
  return seen.add(useTopic('quotes:A'));
}

describe('useConnection', () => {
  it('follows the connection', async () => {
    const server = quotesServer();
    const seen = new Seen<ConnectionState>();
    const { unmount } = renderWith(server, <Connection seen={seen} />);
    expect(seen.last).toEqual({ status: 'connecting', since: Date.now(), attempts: 0 });
    await advance();
    expect(seen.last).toMatchObject({
      status: 'connected',
      attempts: 0,
      clientId: 'client-1',
      node: 'node-1',
    });

    server.down = true;
    server.drop(3008, 'slow');
    await advance(1);
    expect(seen.last).toMatchObject({ status: 'connecting', error: { code: 3008, message: 'slow' } });
    expect(seen.last.clientId).toBeUndefined();
    await advance(10_000);
    expect(seen.last.status).toBe('connecting');
    expect(seen.last.attempts).toBeGreaterThan(1);
    server.down = false;
    await advance(30_000);
    expect(seen.last).toMatchObject({ status: 'connected', attempts: 0 });
    expect(seen.last.error).toBeUndefined();
    unmount();
    await advance(500);
  });

  it('shows that the server is closing, until connected again', async () => {
    const server = quotesServer();
    const seen = new Seen<ConnectionState>();
    renderWith(server, <Connection seen={seen} />);
    await advance();
    server.message({ kind: 'closing', retry_after_ms: 300 });
    await advance();
    expect(seen.last).toMatchObject({ status: 'connected', closing: { retryAfterMs: 300 } });
    server.drop(1012);
    await advance(1);
    expect(seen.last).toMatchObject({ status: 'connecting', closing: { retryAfterMs: 300 } });
    await advance(5_000);
    expect(seen.last.status).toBe('connected');
    expect(seen.last.closing).toBeUndefined();
  });

  it('tells when the server refuses for good', async () => {
    const server = quotesServer();
    const seen = new Seen<ConnectionState>();
    renderWith(server, <Connection seen={seen} />);
    await advance();
    server.drop(3500, 'banned');
    await advance();
    expect(seen.last).toMatchObject({ status: 'disconnected', error: { code: 3500, message: 'banned' } });
  });

  it('closes the connection a moment after the provider was unmounted', async () => {
    const server = quotesServer();
    const closed = vi.fn();
    const websocket = class extends server.websocket {
      override close(): void {
        closed();
        super.close();
      }
    };
    const { unmount } = renderWith(server, null, { options: { websocket } });
    await advance();
    unmount();
    await advance(100);
    expect(closed).not.toHaveBeenCalled();
    await advance(200);
    expect(closed).toHaveBeenCalled();
  });
});

describe('tokens', () => {
  const tokens = (server: ReturnType<typeof quotesServer>): unknown[] =>
    server.commands.flatMap(({ connect }) => (connect ? [connect.token] : []));

  it('come from getToken', async () => {
    const server = quotesServer();
    const getToken = vi.fn(async () => 'token-1');
    renderWith(server, null, { getToken });
    await advance();
    expect(getToken).toHaveBeenCalledOnce();
    expect(tokens(server)).toEqual(['token-1']);
  });

  it('come from the newest getToken', async () => {
    const server = quotesServer();
    const { rerender } = renderWith(server, null, { getToken: async () => 'token-1' });
    await advance();
    rerender(null, { getToken: async () => 'token-2' });
    // Code 109: the token has ended.
    server.connectError = { code: 109, message: 'token expired' };
    server.drop();
    await advance(1_000);
    server.connectError = undefined;
    await advance(5_000);
    expect(tokens(server)[0]).toBe('token-1');
    expect(tokens(server).at(-1)).toBe('token-2');
  });

  it('can be given, and replaced for the next connect', async () => {
    const server = quotesServer();
    const seen = new Seen();
    const { rerender } = renderWith(server, <Topic seen={seen} />, { token: 'first' });
    await advance();
    expect(tokens(server)).toEqual(['first']);
    rerender(<Topic seen={seen} />, { token: 'second' });
    server.drop();
    await advance(5_000);
    expect(tokens(server)).toEqual(['first', 'second']);
    expect(seen.last.status).toBe('live');
  });
});
