// What can be set in the address of the page.

/** Settings from the query. */
export interface Params {
  /** `hidden_after`: let go of subscriptions when the tab has been hidden for so many ms; 0 is never. */
  hiddenAfterMs: number | undefined;
  /** `max_rate`: deliveries a second of each quote at most. */
  maxRate: number | undefined;
  /** `debug`: the client is put on `window.__nexus`. */
  debug: boolean;
}

/** Reads the query of an address; what is not a number is passed over. */
export function readParams(search: string): Params {
  const query = new URLSearchParams(search);
  const number = (name: string, least: number) => {
    const text = query.get(name);
    const value = text === null || text === '' ? Number.NaN : Number(text);
    return Number.isFinite(value) && value >= least ? value : undefined;
  };
  return {
    hiddenAfterMs: number('hidden_after', 0),
    // Zero deliveries would be no watchlist.
    maxRate: number('max_rate', 0.1),
    debug: query.has('debug'),
  };
}
