import { useEffect, useState } from 'react';
import { Pace } from '../../lib/pace';

// The server allows 50 commands per second after a burst of 200. A row costs two (subscribe and unsubscribe), and chart,
// book and signals need some too.
const pace = new Pace(70, 18);

/** A row that disappears sooner than this was only scrolled past. */
const SETTLE_MS = 100;

/** False at first; true once the row has been visible for a moment and may subscribe. */
export function usePaced(): boolean {
  const [ready, setReady] = useState(false);
  useEffect(() => {
    let leave = () => {};
    const timer = setTimeout(() => {
      leave = pace.request(() => setReady(true));
    }, SETTLE_MS);
    return () => {
      clearTimeout(timer);
      leave();
    };
  }, []);
  return ready;
}
