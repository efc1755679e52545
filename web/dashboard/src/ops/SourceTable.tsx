import { formatCount, formatLatency } from '../lib/format';
import { nodeState } from '../lib/ops';
import type { NodeReport } from '../lib/payloads';

interface Props {
  list: readonly (readonly [id: string, node: NodeReport])[];
  now: number;
  least: number;
}

/** The sources of the nodes. The last report of a silent node is greyed, because it may be out of date. */
export function SourceTable({ list, now, least }: Props) {
  return (
    <div className="table-box">
      <table className="num">
        <thead>
          <tr>
            <th scope="col">Source</th>
            <th scope="col">Node</th>
            <th scope="col">State</th>
            <th scope="col" className="right">
              Lag
            </th>
            <th scope="col" className="right">
              Deltas read
            </th>
          </tr>
        </thead>
        <tbody>
          {list.flatMap(([id, node]) =>
            node.sources.map((source, at) => (
              <tr
                // biome-ignore lint/suspicious/noArrayIndexKey: two sources of one name are two
                key={`${id} ${source.name} ${at}`}
                data-silent={nodeState(node, now, least).kind === 'silent' || undefined}
              >
                <th scope="row">{source.name}</th>
                <td>{node.name}</td>
                <td>
                  <span className="state" data-state={source.connected ? 'ready' : 'not-ready'}>
                    {source.connected ? 'connected' : 'not connected'}
                    {source.note !== null && `: ${source.note}`}
                  </span>
                </td>
                <td className="right">{formatLatency(source.lag_ms)}</td>
                <td className="right">{formatCount(source.deltas)}</td>
              </tr>
            )),
          )}
        </tbody>
      </table>
    </div>
  );
}
