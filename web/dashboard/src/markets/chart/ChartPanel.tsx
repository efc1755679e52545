import { lazy, memo, Suspense, useState } from 'react';
import { ErrorBoundary } from '../../app/ErrorBoundary';
import type { ChartMode, TradeLog } from '../trades/trade-log';
import { InstrumentHeader } from './InstrumentHeader';

// The library is half as large as all the rest, so it is not in the first load.
const PriceChart = lazy(() => import('./PriceChart'));

const MODES: readonly { mode: ChartMode; name: string }[] = [
  { mode: '5s', name: '5 s' },
  { mode: '1m', name: '1 min' },
  { mode: 'line', name: 'Line' },
];

interface Props {
  symbol: string;
  log: TradeLog;
  /** Of the quote. */
  maxRate: number;
}

/** The selected instrument: its quote and its chart. */
export const ChartPanel = memo(function ChartPanel({ symbol, log, maxRate }: Props) {
  const [mode, setMode] = useState<ChartMode>('5s');
  return (
    <section className="panel chart" aria-label={`Chart of ${symbol}`}>
      <InstrumentHeader symbol={symbol} maxRate={maxRate} />
      <div className="chart-body">
        <fieldset className="modes" aria-label="Chart">
          {MODES.map((one) => (
            <button
              key={one.mode}
              type="button"
              aria-pressed={one.mode === mode}
              onClick={() => setMode(one.mode)}
            >
              {one.name}
            </button>
          ))}
        </fieldset>
        <ErrorBoundary>
          <Suspense fallback={<p className="note">Loading the chart…</p>}>
            <PriceChart key={`${symbol} ${mode}`} log={log} mode={mode} />
          </Suspense>
        </ErrorBoundary>
      </div>
    </section>
  );
});
