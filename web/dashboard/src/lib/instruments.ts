// Names of instruments: from topics, filtered, sorted.

/** Which way the watchlist is sorted. */
export type SortOrder = 'ascending' | 'descending';

// One collator for all comparisons; "SIM9" comes before "SIM10".
const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });

/** The part of a topic after its namespace. */
export function symbolOf(topic: string): string {
  return topic.slice(topic.indexOf(':') + 1);
}

/** A sorted copy. */
export function sortSymbols(symbols: readonly string[], order: SortOrder): string[] {
  const sorted = [...symbols].sort(collator.compare);
  return order === 'descending' ? sorted.reverse() : sorted;
}

/** Symbols that contain every word of `query`, in any case; the order stays. */
export function filterSymbols(symbols: readonly string[], query: string): readonly string[] {
  const words = query.trim().toUpperCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return symbols;
  return symbols.filter((symbol) => {
    const upper = symbol.toUpperCase();
    return words.every((word) => upper.includes(word));
  });
}

/** Where a list cursor goes on a key; undefined for keys that do not move it. */
export function moveCursor(key: string, at: number, count: number, page: number): number | undefined {
  if (count === 0) return undefined;
  const to = (n: number) => Math.min(count - 1, Math.max(0, n));
  switch (key) {
    case 'ArrowDown':
      return to(at + 1);
    case 'ArrowUp':
      return to(at < 0 ? 0 : at - 1);
    case 'PageDown':
      return to(at + page);
    case 'PageUp':
      return to(at - page);
    case 'Home':
      return 0;
    case 'End':
      return count - 1;
    default:
      return undefined;
  }
}
