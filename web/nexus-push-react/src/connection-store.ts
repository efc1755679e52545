import { type Centrifuge, State } from 'centrifuge';
import { guarded } from './guard.js';
import { isObject } from './merge.js';
import type { ConnectionState } from './types.js';

/** The state before the client exists, for example when rendered on a server. */
export const INITIAL_CONNECTION: ConnectionState = { status: 'disconnected', since: 0, attempts: 0 };

/** Follows the events of the SDK and keeps the state of the connection. */
export class ConnectionStore {
  /** The current state. */
  state: ConnectionState = { ...INITIAL_CONNECTION, since: Date.now() };
  readonly #listeners = new Set<() => void>();

  constructor(centrifuge: Centrifuge) {
    centrifuge
      .on('connecting', ({ code, reason }) => {
        const { closing } = this.state;
        // Code 0: connect() was called.
        const error = code === 0 ? undefined : { code, message: reason };
        this.#set({ status: 'connecting', since: Date.now(), attempts: 0, error, closing });
      })
      .on('connected', ({ client }) => {
        const node = nodeOf(centrifuge);
        this.#set({ status: 'connected', since: Date.now(), attempts: 0, clientId: client, node });
      })
      .on('disconnected', ({ code, reason }) => {
        const { attempts } = this.state;
        // Code 0: disconnect() was called.
        const error = code === 0 ? undefined : { code, message: reason };
        this.#set({ status: 'disconnected', since: Date.now(), attempts, error });
      })
      .on('error', ({ error }) => {
        // Errors at other times (a token that could not be refreshed yet) do not concern the connection.
        if (centrifuge.state !== State.Connecting) return;
        const { code, message } = error;
        this.#set({ ...this.state, attempts: this.state.attempts + 1, error: { code, message } });
      })
      .on('message', ({ data }) => {
        if (!isObject(data) || data.kind !== 'closing') return;
        const retryAfterMs = typeof data.retry_after_ms === 'number' ? data.retry_after_ms : 0;
        this.#set({ ...this.state, closing: { retryAfterMs } });
      });
  }

  /** Calls `listener` at every change, until the returned function is called. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #set(state: { [K in keyof ConnectionState]: ConnectionState[K] | undefined }): void {
    // Members without a value are left out, so that `'error' in state` works.
    const entries = Object.entries(state).filter(([, value]) => value !== undefined);
    this.state = Object.fromEntries(entries) as unknown as ConnectionState;
    // Called at once, not in the next frame: these changes are rare.
    for (const listener of [...this.#listeners]) guarded(listener);
  }
}

/** The node that answered. The SDK keeps it in a private member, so it may be undefined in later versions. */
function nodeOf(centrifuge: Centrifuge): string | undefined {
  const node = (centrifuge as unknown as { _node?: unknown })._node;
  return typeof node === 'string' && node !== '' ? node : undefined;
}
