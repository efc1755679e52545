import { useConnection } from 'nexus-push-react';
import { useEffect, useState } from 'react';
import { useAuth } from '../app/auth';
import { ApiError, listTopics } from '../lib/api';
import { symbolOf } from '../lib/instruments';

/** What instruments there are. */
export interface Instruments {
  /** Undefined until the server has answered once. */
  symbols: readonly string[] | undefined;
  /** Those with an order book. */
  books: ReadonlySet<string>;
  error: { message: string; unauthorized: boolean } | undefined;
}

/** New instruments are found so soon. */
const AGAIN_MS = 60_000;
/** Where nothing is known yet, ask more often. */
const RETRY_MS = 3000;

/** The instruments of the server, asked for again now and then and after every reconnect. */
export function useInstruments(): Instruments {
  const { token } = useAuth();
  const { clientId } = useConnection();
  const [instruments, setInstruments] = useState<Instruments>({
    symbols: undefined,
    books: new Set(),
    error: undefined,
  });

  // biome-ignore lint/correctness/useExhaustiveDependencies: another clientId is another connection, perhaps to another node: ask again
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    async function ask() {
      let again = AGAIN_MS;
      try {
        const [quotes, books] = await Promise.all([
          listTopics('quotes:', token, abort.signal),
          listTopics('book:', token, abort.signal),
        ]);
        if (quotes.length === 0) again = RETRY_MS;
        setInstruments((old) => updated(old, quotes.map(symbolOf), books.map(symbolOf)));
      } catch (error) {
        if (abort.signal.aborted) return;
        again = RETRY_MS;
        const unauthorized = error instanceof ApiError && (error.status === 401 || error.status === 403);
        const message = error instanceof Error ? error.message : String(error);
        setInstruments((old) => ({ ...old, error: { message, unauthorized } }));
      }
      if (!abort.signal.aborted) timer = setTimeout(ask, again);
    }
    void ask();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [token, clientId]);

  return instruments;
}

/** Keeps the old objects where nothing changed, so that nothing is drawn again. */
function updated(old: Instruments, symbols: string[], books: string[]): Instruments {
  const same = (a: Iterable<string>, b: readonly string[]) => [...a].join() === b.join();
  const sameSymbols = old.symbols !== undefined && same(old.symbols, symbols);
  const sameBooks = same(old.books, books);
  if (sameSymbols && sameBooks && old.error === undefined) return old;
  return {
    symbols: sameSymbols ? old.symbols : symbols,
    books: sameBooks ? old.books : new Set(books),
    error: undefined,
  };
}
