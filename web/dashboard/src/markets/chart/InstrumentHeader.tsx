import { useTopic } from 'nexus-push-react';
import { PageTitle } from '../../app/PageTitle';
import { Problem } from '../../app/Problem';
import { changePercent, formatPercent, formatSize, formatSpread, NONE, spreadBps } from '../../lib/format';
import { readQuote } from '../../lib/payloads';
import { useReportSimulated } from '../../lib/simulated';

/** Name and quote of the selected instrument. */
export function InstrumentHeader({ symbol, maxRate }: { symbol: string; maxRate: number }) {
  const topic = `quotes:${symbol}` as const;
  // The rate of the watchlist: both share the subscription, and the higher of two rates applies.
  const { data, status, stale, error } = useTopic(topic, { maxRate });
  const quote = readQuote(data);
  useReportSimulated(topic, quote.sim);
  const change = changePercent(quote.open, quote.last);
  const sign = change === undefined || Math.abs(change) < 0.005 ? undefined : change > 0 ? 'up' : 'down';
  const bps = spreadBps(quote.bid, quote.ask);

  return (
    <div className="instrument" data-stale={stale || undefined}>
      <PageTitle symbol={symbol} />
      <h2 title={symbol}>{symbol}</h2>
      <Problem topic={topic} problem={quote.problem} />
      <div className="instrument-price num">
        <strong data-sign={sign}>{quote.last ?? NONE}</strong>
        <span data-sign={sign}>{formatPercent(change)}</span>
        {stale && <span className="tag">stale</span>}
        {status === 'error' && <span className="tag">{error?.message ?? 'refused'}</span>}
      </div>
      <dl className="facts num">
        <div>
          <dt>Bid</dt>
          <dd>
            {quote.bid ?? NONE} <small>× {formatSize(quote.bid_size)}</small>
          </dd>
        </div>
        <div>
          <dt>Ask</dt>
          <dd>
            {quote.ask ?? NONE} <small>× {formatSize(quote.ask_size)}</small>
          </dd>
        </div>
        <div>
          <dt>Spread</dt>
          <dd>
            {formatSpread(quote.bid, quote.ask)}{' '}
            {bps !== undefined && <small>{bps < 1 ? bps.toPrecision(2) : bps.toFixed(1)} bp</small>}
          </dd>
        </div>
        <div>
          <dt>Open</dt>
          <dd>{quote.open ?? NONE}</dd>
        </div>
      </dl>
    </div>
  );
}
