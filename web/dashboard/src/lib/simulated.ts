// Whether anything on the page is simulated. Every part that shows a payload reports the payload's mark.
import { useEffect, useSyncExternalStore } from 'react';

const simulated = new Map<string, number>();
const listeners = new Set<() => void>();

function tell(): void {
  for (const listener of [...listeners]) listener();
}

/** Reports whether the data of `topic` that a component shows is simulated. */
export function useReportSimulated(topic: string, is: boolean): void {
  useEffect(() => {
    if (!is) return;
    simulated.set(topic, (simulated.get(topic) ?? 0) + 1);
    if (simulated.size === 1) tell();
    return () => {
      const users = (simulated.get(topic) ?? 1) - 1;
      if (users > 0) simulated.set(topic, users);
      else simulated.delete(topic);
      if (simulated.size === 0) tell();
    };
  }, [topic, is]);
}

/** Whether something on the page is simulated. */
export function useSimulated(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => simulated.size > 0,
  );
}
