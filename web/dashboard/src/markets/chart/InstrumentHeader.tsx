import { useTopic } from 'nexus-push-react';
import { PageTitle } from '../../app/PageTitle';
import { changePercent, formatPercent, formatSize, formatSpread, NONE, spreadBps } from '../../lib/format';
import { useReportSimulated } from '../../lib/simulated';

/** Name and quote of the selected instrument. */
export function InstrumentHeader({ symbol, maxRate }: { symbol: string; maxRate: number }) {
  const topic = `quotes:${symbol}` as const;
  // The rate of the watchlist: they share the subscription, and of two rates the higher would win.
  const { data, status, stale, error } = useTopic(topic, { maxRate });
  useReportSimulated(topic, data?.sim === true);
  const change = changePercent(data?.open, data?.last);
  const sign = change === undefined || Math.abs(change) < 0.005 ? undefined : change > 0 ? 'up' : 'down';
  const bps = spreadBps(data?.bid, data?.ask);

  return (
    <div className="instrument" data-stale={stale || undefined}>
      <PageTitle symbol={symbol} />
      <h2>{symbol}</h2>
      <div className="instrument-price num">
        <strong data-sign={sign}>{data?.last ?? NONE}</strong>
        <span data-sign={sign}>{formatPercent(change)}</span>
        {stale && <span className="tag">stale</span>}
        {status === 'error' && <span className="tag">{error?.message ?? 'refused'}</span>}
      </div>
      <dl className="facts num">
        <div>
          <dt>Bid</dt>
          <dd>
            {data?.bid ?? NONE} <small>× {formatSize(data?.bid_size)}</small>
          </dd>
        </div>
        <div>
          <dt>Ask</dt>
          <dd>
            {data?.ask ?? NONE} <small>× {formatSize(data?.ask_size)}</small>
          </dd>
        </div>
        <div>
          <dt>Spread</dt>
          <dd>
            {formatSpread(data?.bid, data?.ask)}{' '}
            {bps !== undefined && <small>{bps < 1 ? bps.toPrecision(2) : bps.toFixed(1)} bp</small>}
          </dd>
        </div>
        <div>
          <dt>Open</dt>
          <dd>{data?.open ?? NONE}</dd>
        </div>
      </dl>
    </div>
  );
}
