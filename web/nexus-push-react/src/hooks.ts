import { useCallback, useContext, useMemo, useSyncExternalStore } from 'react';
import type { PushClient } from './client.js';
import { INITIAL_CONNECTION } from './connection-store.js';
import { PushContext } from './provider.js';
import { DEFAULT_KEEP, idleState, newest } from './topic-store.js';
import type { ConnectionState, PayloadOf, TopicOptions, TopicState } from './types.js';

/** The client of the nearest `PushProvider`, for everything that the other hooks do not offer. */
export function usePushClient(): PushClient {
  const client = useContext(PushContext);
  if (client === undefined)
    throw new Error('nexus-push-react: there is no <PushProvider> above this component');
  return client;
}

/** The state of the connection. */
export function useConnection(): ConnectionState {
  const client = usePushClient();
  const subscribe = useCallback((listener: () => void) => client.subscribeConnection(listener), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.getConnectionState(),
    () => INITIAL_CONNECTION,
  );
}

/** Subscribes to a topic while the component is mounted, and renders the component when the topic changes. */
export function useTopic<T extends string>(topic: T, options?: TopicOptions): TopicState<PayloadOf<T>>;
/**
 * As above, but returns the result of `select`, and renders only when that result changes (by
 * `Object.is`).
 */
export function useTopic<T extends string, S>(
  topic: T,
  options: TopicOptions & { select: (state: TopicState<PayloadOf<T>>) => S },
): S;
export function useTopic<T extends string, S>(
  topic: T,
  options: TopicOptions & { select?: (state: TopicState<PayloadOf<T>>) => S } = {},
): TopicState<PayloadOf<T>> | S {
  const { select } = options;
  const { subscribe, read, readIdle } = useTopicStates([topic], options);
  const view = useMemo(() => {
    const one = (states: ReadonlyMap<T, TopicState<PayloadOf<T>>>): TopicState<PayloadOf<T>> | S => {
      // The map has only this topic, which the compiler cannot know.
      const state = states.get(topic) as TopicState<PayloadOf<T>>;
      return select === undefined ? state : select(state);
    };
    return { live: memoizeLast(read, one), idle: memoizeLast(readIdle, one) };
  }, [read, readIdle, select, topic]);
  return useSyncExternalStore(subscribe, view.live, view.idle);
}

/**
 * Subscribes to many topics. Returns the states by topic, in the order of the list. The map stays the same
 * object until one of them changes.
 */
export function useTopics<T extends string>(
  topics: readonly T[],
  options: TopicOptions = {},
): ReadonlyMap<T, TopicState<PayloadOf<T>>> {
  const { subscribe, read, readIdle } = useTopicStates(topics, options);
  return useSyncExternalStore(subscribe, read, readIdle);
}

interface TopicStates<T extends string> {
  readonly subscribe: (listener: () => void) => () => void;
  /** The current states; the same map until one of them changes. */
  readonly read: () => ReadonlyMap<T, TopicState<PayloadOf<T>>>;
  /** The states before any data has come, for rendering on a server. */
  readonly readIdle: () => ReadonlyMap<T, TopicState<PayloadOf<T>>>;
}

/** The arguments of `useSyncExternalStore` for a set of topics. */
function useTopicStates<T extends string>(topics: readonly T[], options: TopicOptions): TopicStates<T> {
  const client = usePushClient();
  const { maxRate, keep = DEFAULT_KEEP, enabled = true } = options;
  // The list is usually a new array in every render, so its content is compared.
  const key = JSON.stringify(topics);
  return useMemo(() => {
    const list = JSON.parse(key) as T[];
    const idle = new Map(list.map((topic) => [topic, idleState(topic) as TopicState<PayloadOf<T>>]));
    let seen: ReadonlyMap<T, TopicState<PayloadOf<T>>> = idle;
    let result: ReadonlyMap<T, TopicState<PayloadOf<T>>> = idle;

    return {
      subscribe: (listener) => {
        const undo = [...idle.keys()].flatMap((topic) => [
          client.subscribe(topic, listener),
          ...(enabled ? [client.retain(topic, { maxRate, keep })] : []),
        ]);
        return () => {
          for (const fn of undo) fn();
        };
      },
      read: () => {
        const now = new Map<T, TopicState<PayloadOf<T>>>();
        for (const [topic, idleOne] of idle)
          now.set(topic, (client.peek(topic) as typeof idleOne | undefined) ?? idleOne);
        const unchanged = (topic: T): boolean => now.get(topic) === seen.get(topic);
        if (list.every(unchanged)) return result;
        const limited = new Map<T, TopicState<PayloadOf<T>>>();
        for (const [topic, state] of now) {
          const before = unchanged(topic) ? result.get(topic) : undefined;
          limited.set(topic, before ?? withEvents(state, keep));
        }
        seen = now;
        result = limited;
        return result;
      },
      readIdle: () => idle,
    };
  }, [client, key, maxRate, keep, enabled]);
}

/** The state with at most `keep` events: another component may keep more events of the topic. */
function withEvents<P>(state: TopicState<P>, keep: number): TopicState<P> {
  return state.events.length > keep ? { ...state, events: newest(state.events, keep) } : state;
}

/** `map(read())`, computed again only when `read` returns another value than before. */
function memoizeLast<A extends object, R>(read: () => A, map: (value: A) => R): () => R {
  let last: { value: A; result: R } | undefined;
  return () => {
    const value = read();
    if (last?.value !== value) last = { value, result: map(value) };
    return last.result;
  };
}
