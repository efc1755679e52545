import { act, render } from '@testing-library/react';
import type { ReactElement, ReactNode } from 'react';
import { vi } from 'vitest';
import { PushProvider, type PushProviderProps, type TopicState } from '../src/index.js';
import { FakeServer } from './fake-server.js';

/** Enough for a message there and back and the next animation frame. */
export const FRAME_MS = 40;

/** Lets fake time go by. */
export async function advance(ms = FRAME_MS): Promise<void> {
  await act(() => vi.advanceTimersByTimeAsync(ms));
}

/** Renders below a provider that is connected to a fake server. */
export function renderWith(
  server: FakeServer,
  children: ReactNode,
  props: PushProviderProps = {},
): { rerender: (children: ReactNode, props?: PushProviderProps) => void; unmount: () => void } {
  const wrap = (content: ReactNode, given: PushProviderProps): ReactElement => (
    <PushProvider
      url="ws://test/connection/websocket"
      {...given}
      options={{ websocket: server.websocket, ...given.options }}
    >
      {content}
    </PushProvider>
  );
  const { rerender, unmount } = render(wrap(children, props));
  return { rerender: (content, next = props) => rerender(wrap(content, next)), unmount };
}

/** Collects what a component sees in each render. */
export class Seen<S = TopicState<unknown>> {
  readonly all: S[] = [];

  readonly add = (state: S): null => {
    this.all.push(state);
    return null;
  };

  get last(): S {
    const last = this.all.at(-1);
    if (last === undefined) throw new Error('not rendered yet');
    return last;
  }

  get count(): number {
    return this.all.length;
  }
}

/** Pretends that the tab is hidden or shown. */
export async function setHidden(hidden: boolean): Promise<void> {
  vi.spyOn(document, 'visibilityState', 'get').mockReturnValue(hidden ? 'hidden' : 'visible');
  await act(async () => {
    document.dispatchEvent(new Event('visibilitychange'));
  });
}

export function quotesServer(): FakeServer {
  const server = new FakeServer();
  server.topic('quotes:A', { class: 'merge', offset: 5, snapshot: { bid: '1', ask: '2', size: { b: '7' } } });
  server.topic('quotes:B', { class: 'merge', offset: 3, snapshot: { bid: '10', ask: '20' } });
  server.topic('trades:A', { class: 'stream', offset: 9 });
  server.topic('rates:A', { class: 'latest', offset: 2, snapshot: 1.5 });
  return server;
}
