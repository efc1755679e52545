import { useEffect, useRef, useState } from 'react';
import { announcement, type SignalEntry, signalKey } from '../../lib/signals';

/** Least time between two announcements. */
const EVERY_MS = 10_000;

/** Announces new signals to screen readers: politely, several at once, without those of the first load. */
export function Announcer({ entries }: { entries: readonly SignalEntry[] }) {
  const [text, setText] = useState('');
  const latest = useRef(entries);
  useEffect(() => {
    latest.current = entries;
  }, [entries]);

  useEffect(() => {
    let told: string | undefined;
    const timer = setInterval(() => {
      const list = latest.current;
      const newest = list[0];
      if (newest === undefined) return;
      const before = told;
      told = signalKey(newest);
      if (before === undefined || before === told) return;
      const at = list.findIndex((entry) => signalKey(entry) === before);
      setText(announcement(at < 0 ? list.length : at, newest.data));
    }, EVERY_MS);
    return () => clearInterval(timer);
  }, []);

  return (
    <p className="hidden" aria-live="polite">
      {text}
    </p>
  );
}
