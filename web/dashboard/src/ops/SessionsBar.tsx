import type { CSSProperties } from 'react';
import { formatCount } from '../lib/format';
import type { NodeReport } from '../lib/payloads';

/** Sessions of a node as a share of its maximum, one segment for each shard. */
export function SessionsBar({ node }: { node: NodeReport }) {
  const { sessions, sessions_max: max, sessions_by_shard: shards } = node;
  const of = Math.max(max, sessions, 1);
  return (
    <span className="sessions" title={`By shard: ${shards.map(formatCount).join(', ')}`}>
      <span>
        {formatCount(sessions)} <small className="dim">of {formatCount(max)}</small>
      </span>
      <span className="sessions-bar" aria-hidden="true">
        {shards.map((count, shard) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a shard is its number
          <span key={shard} style={{ width: `${((100 * count) / of).toFixed(2)}%` } as CSSProperties} />
        ))}
      </span>
    </span>
  );
}
