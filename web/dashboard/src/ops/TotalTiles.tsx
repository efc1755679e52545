import { useMemo } from 'react';
import { formatBytes, formatCount, formatLatency, formatRate } from '../lib/format';
import type { Sample, Totals } from '../lib/ops';
import { Sparkline } from './Sparkline';

interface Props {
  totals: Totals;
  history: readonly Sample[];
  now: number;
}

/** Sums over all nodes; three of them with their history. */
export function TotalTiles({ totals, history, now }: Props) {
  const series = useMemo(
    () => ({
      deliveries: history.map(({ at, deliveries }) => ({ at, value: deliveries })),
      sessions: history.map(({ at, sessions }) => ({ at, value: sessions })),
      lag: history.map(({ at, lagMs }) => ({ at, value: lagMs })),
    }),
    [history],
  );
  const newest = history[history.length - 1]?.at ?? now;
  const end = Math.max(newest, now);

  return (
    <section aria-label="All nodes" className="tiles num">
      <div className="tile tile-wide">
        <Head
          name="Deliveries/s"
          value={formatRate(totals.deliveries)}
          note={`${formatRate(totals.deltas)} deltas/s in`}
        />
        <Sparkline points={series.deliveries} now={end} />
      </div>
      <div className="tile tile-wide">
        <Head
          name="Sessions"
          value={formatCount(totals.sessions)}
          note={totals.sessionsMax > 0 ? `of ${formatCount(totals.sessionsMax)}` : undefined}
        />
        <Sparkline points={series.sessions} now={end} />
      </div>
      <div className="tile tile-wide">
        <Head
          name="Lag of sources"
          value={formatLatency(totals.lagMs)}
          note="the largest"
          warn={totals.lagMs > 5000}
        />
        <Sparkline points={series.lag} now={end} />
      </div>
      <div className="tile">
        <Head
          name="Nodes"
          value={formatCount(totals.nodes)}
          note={totals.ready === totals.nodes ? 'all ready' : `${totals.ready} ready`}
          warn={totals.ready < totals.nodes}
        />
        <Head name="Topics" value={formatCount(totals.topics)} />
      </div>
      <div className="tile">
        <Head name="Subscriptions" value={formatCount(totals.subscriptions)} />
        <Head name="Sent" value={`${formatBytes(totals.bytes)}/s`} />
      </div>
      <div className="tile">
        <Head name="Backlog" value={formatBytes(totals.backlog)} />
        <Head name="Slow sessions" value={formatCount(totals.slow)} warn={totals.slow > 0} />
      </div>
    </section>
  );
}

function Head({
  name,
  value,
  note,
  warn = false,
}: {
  name: string;
  value: string;
  note?: string | undefined;
  warn?: boolean;
}) {
  return (
    <dl className="total" data-warn={warn || undefined}>
      <dt>{name}</dt>
      <dd>
        <strong>{value}</strong> {note !== undefined && <small>{note}</small>}
      </dd>
    </dl>
  );
}
