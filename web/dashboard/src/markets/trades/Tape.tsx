import { memo, useSyncExternalStore } from 'react';
import { Problem } from '../../app/Problem';
import { formatSize, formatTime } from '../../lib/format';
import type { TapeTrade, TradeLog } from './trade-log';

/** The last trades of the selected instrument, newest on top. */
export const Tape = memo(function Tape({ symbol, log }: { symbol: string; log: TradeLog }) {
  const trades = useSyncExternalStore(log.subscribe, () => log.tape);
  return (
    <section className="panel tape" aria-label="Trades">
      <div className="panel-head">
        <h2>Trades</h2>
      </div>
      <div className="tape-head" aria-hidden="true">
        <span>Price</span>
        <span>Size</span>
        <span>Time</span>
      </div>
      {trades.length === 0 ? (
        <p className="note">No trades yet.</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
        <ul className="tape-list num" tabIndex={0} aria-label="Last trades">
          {trades.map((trade) => (
            <TapeRow key={trade.offset} topic={`trades:${symbol}`} trade={trade} />
          ))}
        </ul>
      )}
    </section>
  );
});

const TapeRow = memo(function TapeRow({ topic, trade }: { topic: string; trade: TapeTrade }) {
  const bad = trade.price === undefined;
  return (
    <li data-side={trade.side} data-bad={bad || undefined}>
      <span>
        {trade.side !== undefined && <span className="hidden">{trade.side} </span>}
        {trade.price ?? <span title={topic}>no trade</span>}{' '}
        <Problem topic={`${topic}, offset ${trade.offset}`} problem={trade.problem} />
      </span>
      <span>{formatSize(trade.size)}</span>
      <span className="dim">{formatTime(trade.time)}</span>
    </li>
  );
});
