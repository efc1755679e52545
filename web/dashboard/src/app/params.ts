// Settings in the address of the page.

/** Settings from the query. */
export interface Params {
  /** `hidden_after`: end subscriptions when the tab has been hidden for this long, in ms; 0 is never. */
  hiddenAfterMs: number | undefined;
  /** `max_rate`: the most deliveries per second of each quote. */
  maxRate: number | undefined;
  /** `debug`: the client is put on `window.__nexus`. */
  debug: boolean;
}

/** Reads the query of an address; values that are not numbers are ignored. */
export function readParams(search: string): Params {
  const query = new URLSearchParams(search);
  const number = (name: string, least: number) => {
    const text = query.get(name);
    const value = text === null || text === '' ? Number.NaN : Number(text);
    return Number.isFinite(value) && value >= least ? value : undefined;
  };
  return {
    hiddenAfterMs: number('hidden_after', 0),
    // With zero deliveries, the watchlist would be empty.
    maxRate: number('max_rate', 0.1),
    debug: query.has('debug'),
  };
}
