import { useTopic } from 'nexus-push-react';
import { type CSSProperties, memo } from 'react';
import { Problem } from '../../app/Problem';
import { depthOf, type Level } from '../../lib/depth';
import { formatFixed, formatSize, NONE } from '../../lib/format';
import { useSize } from '../../lib/media';
import { readBook } from '../../lib/payloads';
import { useReportSimulated } from '../../lib/simulated';
import './book.css';

// Also in book.css.
const ROW_HEIGHT = 18;
const MIDDLE_HEIGHT = 34;
const LEAST_ROWS = 4;
const MOST_ROWS = 25;

/** Asks above, bids below, the spread between; bars are sizes summed from the best price on. */
export default function DepthLadder({ symbol, maxRate }: { symbol: string; maxRate: number }) {
  const topic = `book:${symbol}` as const;
  const { data, stale } = useTopic(topic, { maxRate });
  const book = readBook(data);
  useReportSimulated(topic, book.sim);
  const [setSized, { height }] = useSize<HTMLDivElement>();
  const fit = Math.floor((height - MIDDLE_HEIGHT) / 2 / ROW_HEIGHT);
  const rows = Math.min(MOST_ROWS, Math.max(LEAST_ROWS, fit));
  const depth = data === undefined ? undefined : depthOf(book, rows);

  return (
    <div className="ladder" data-stale={stale || undefined} data-testid="book">
      <div className="ladder-head">
        <span>
          Price <Problem topic={topic} problem={book.problem} />
        </span>
        <span>Size</span>
        <span>Total</span>
      </div>
      <div className="ladder-body num" ref={setSized}>
        {depth === undefined ? (
          <p className="note">Waiting for the book…</p>
        ) : (
          <>
            <Side name="Asks" side="ask" levels={depth.asks} />
            <p className="ladder-middle">
              <strong>{depth.spread === undefined ? NONE : formatFixed(depth.spread, depth.decimals)}</strong>
              <span>spread</span>
              {depth.spread !== undefined && (
                <span className="ladder-mid">
                  mid {formatFixed((Number(depth.bestBid) + Number(depth.bestAsk)) / 2, depth.decimals + 1)}
                </span>
              )}
            </p>
            <Side name="Bids" side="bid" levels={depth.bids} />
          </>
        )}
      </div>
      {depth?.bidShare !== undefined && <Balance bids={depth.bidShare} />}
    </div>
  );
}

function Side({ name, side, levels }: { name: string; side: 'bid' | 'ask'; levels: readonly Level[] }) {
  return (
    <ol className={`ladder-side ladder-${side}`} aria-label={name} data-testid={`book-${side}s`}>
      {levels.map((level, at) => (
        // By place, not by price: a level that moves reuses the row at its place, so that no rows are created.
        // biome-ignore lint/suspicious/noArrayIndexKey: the place is the identity
        <LevelRow key={at} price={level.price} size={level.size} total={level.total} share={level.share} />
      ))}
    </ol>
  );
}

const LevelRow = memo(function LevelRow({ price, size, total, share }: Level) {
  return (
    <li style={{ '--share': share.toFixed(3) } as CSSProperties}>
      <span className="ladder-price">{price}</span>
      <span>{formatSize(size)}</span>
      <span>{formatSize(total)}</span>
    </li>
  );
});

/** Which side of the visible book is larger. */
function Balance({ bids }: { bids: number }) {
  const percent = Math.round(bids * 100);
  return (
    <p className="balance num" style={{ '--share': bids.toFixed(3) } as CSSProperties}>
      <span>Bids {percent}%</span>
      <span>{100 - percent}% Asks</span>
    </p>
  );
}
