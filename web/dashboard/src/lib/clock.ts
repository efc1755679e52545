// One clock for all ages on the page: one timer, one moment at which they all change.
import { useCallback, useSyncExternalStore } from 'react';

const TICK_MS = 1000;

const listeners = new Set<() => void>();
let now = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;

function subscribe(listener: () => void): () => void {
  if (listeners.size === 0) {
    now = Date.now();
    timer = setInterval(() => {
      now = Date.now();
      for (const each of [...listeners]) each();
    }, TICK_MS);
  }
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) clearInterval(timer);
  };
}

/** Unix ms, as of the last tick; renders once per second. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => now);
}

/** Whether `time` is more than `ms` ago; renders only when that changes. */
export function useOlderThan(time: number | undefined, ms: number): boolean {
  const read = useCallback(() => time !== undefined && now - time > ms, [time, ms]);
  return useSyncExternalStore(subscribe, read);
}
