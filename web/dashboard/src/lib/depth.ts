// An order book for drawing: sorted, cut to the visible rows, cumulated.
import { decimalsOf } from './format';
import type { Book } from './payloads';

/** One price level. */
export interface Level {
  /** As sent. */
  price: string;
  size: number;
  /** Sizes from the best price to this one. */
  total: number;
  /** `total` as a share of the larger side's, 0…1: the length of its bar. */
  share: number;
}

/** Both sides, best price first. */
export interface Depth {
  bids: Level[];
  asks: Level[];
  bestBid: string | undefined;
  bestAsk: string | undefined;
  /** Best ask less best bid. */
  spread: number | undefined;
  /** Decimals of the prices. */
  decimals: number;
  /** Share of the bids in all sizes shown, 0…1; undefined for an empty book. */
  bidShare: number | undefined;
}

function side(levels: Record<string, string>, best: 'high' | 'low', rows: number): Level[] {
  const sorted: { price: string; at: number; size: number }[] = [];
  for (const price in levels) {
    const size = Number(levels[price]);
    const at = Number(price);
    // Some sources send a size of zero for a removed level.
    if (size > 0 && Number.isFinite(size) && Number.isFinite(at)) sorted.push({ price, at, size });
  }
  sorted.sort(best === 'high' ? (x, y) => y.at - x.at : (x, y) => x.at - y.at);
  let total = 0;
  return sorted.slice(0, rows).map(({ price, size }) => {
    total += size;
    return { price, size, total, share: 0 };
  });
}

/** The best `rows` levels of each side of `book`. */
export function depthOf(book: Pick<Book, 'a' | 'b'>, rows: number): Depth {
  const bids = side(book.b, 'high', rows);
  const asks = side(book.a, 'low', rows);
  const bidTotal = bids[bids.length - 1]?.total ?? 0;
  const askTotal = asks[asks.length - 1]?.total ?? 0;
  const most = Math.max(bidTotal, askTotal);
  if (most > 0) {
    for (const level of bids) level.share = level.total / most;
    for (const level of asks) level.share = level.total / most;
  }
  const bestBid = bids[0]?.price;
  const bestAsk = asks[0]?.price;
  return {
    bids,
    asks,
    bestBid,
    bestAsk,
    spread: bestBid !== undefined && bestAsk !== undefined ? Number(bestAsk) - Number(bestBid) : undefined,
    decimals: Math.max(decimalsOf(bestBid), decimalsOf(bestAsk)),
    bidShare: most > 0 ? bidTotal / (bidTotal + askTotal) : undefined,
  };
}
