import { useCallback, useEffect, useState } from 'react';

/** The default instrument, if the server has it. */
const FAVOURITE = 'BTCUSDT';

function fromHash(): string | undefined {
  const text = window.location.hash.slice(1);
  try {
    return text === '' ? undefined : decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** The selected instrument, kept in the address (`/#BTCUSDT`), so that it can be bookmarked. */
export function useSelected(
  symbols: readonly string[] | undefined,
): [string | undefined, (symbol: string) => void] {
  const [wanted, setWanted] = useState(fromHash);

  useEffect(() => {
    const follow = () => setWanted(fromHash());
    window.addEventListener('hashchange', follow);
    return () => window.removeEventListener('hashchange', follow);
  }, []);

  const select = useCallback((symbol: string) => {
    setWanted(symbol);
    // Replaced, not pushed: walking through a watchlist should not fill the history.
    window.history.replaceState(null, '', `#${encodeURIComponent(symbol)}`);
  }, []);

  const first = symbols?.includes(FAVOURITE) === true ? FAVOURITE : symbols?.[0];
  return [wanted ?? first, select];
}
