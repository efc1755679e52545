import { useEffect, useState } from 'react';
import { Pace } from '../../lib/pace';

// The server allows 50 commands a second after a burst of 200. A row costs two (subscribe and unsubscribe), and chart,
// book and signals need some too.
const pace = new Pace(70, 18);

/** A row that is gone sooner than this was only scrolled past. */
const SETTLE_MS = 100;

/** False at first; true when a row has been there for a moment and its turn to subscribe has come. */
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
