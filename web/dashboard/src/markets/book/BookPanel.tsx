import { lazy, memo, Suspense } from 'react';
import { ErrorBoundary } from '../../app/ErrorBoundary';

const DepthLadder = lazy(() => import('./DepthLadder'));

interface Props {
  symbol: string;
  /** Whether the server has a book of the instrument; undefined until that is known. */
  has: boolean | undefined;
  maxRate: number;
}

/** The order book of the selected instrument, or that there is none. */
export const BookPanel = memo(function BookPanel({ symbol, has, maxRate }: Props) {
  return (
    <section className="panel book" aria-label={`Order book of ${symbol}`}>
      <div className="panel-head">
        <h2>Order book</h2>
        <span className="dim">{symbol}</span>
      </div>
      {has === false && (
        <p className="note" data-testid="no-book">
          {symbol} has no order book.
        </p>
      )}
      {has === true && (
        <ErrorBoundary>
          <Suspense fallback={<p className="note">Loading…</p>}>
            <DepthLadder key={symbol} symbol={symbol} maxRate={maxRate} />
          </Suspense>
        </ErrorBoundary>
      )}
    </section>
  );
});
