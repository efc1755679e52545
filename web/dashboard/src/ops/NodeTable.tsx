import { nodeState } from '../lib/ops';
import type { NodeReport } from '../lib/payloads';
import { COLUMNS } from './columns';

interface Props {
  list: readonly (readonly [id: string, node: NodeReport])[];
  now: number;
  least: number;
}

/** The nodes where there is room for a table. */
export function NodeTable({ list, now, least }: Props) {
  return (
    <div className="table-box">
      <table className="num">
        <thead>
          <tr>
            <th scope="col">Node</th>
            {COLUMNS.map((column) => (
              <th
                key={column.name}
                scope="col"
                title={column.title}
                className={column.text ? undefined : 'right'}
              >
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {list.map(([id, node]) => (
            <tr
              key={id}
              data-testid={`node-${id}`}
              data-silent={nodeState(node, now, least).kind === 'silent' || undefined}
            >
              <th scope="row" title={id}>
                {node.name} <small className="dim">{node.version}</small>
              </th>
              {COLUMNS.map((column) => (
                <td key={column.name} className={column.text ? undefined : 'right'}>
                  {column.show({ id, node, now, least })}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The nodes on a phone. */
export function NodeCards({ list, now, least }: Props) {
  return (
    <ul className="cards num">
      {list.map(([id, node]) => (
        <li key={id} data-testid={`node-${id}`}>
          <h3>
            {node.name} <small className="dim">{node.version}</small>
          </h3>
          <dl>
            {COLUMNS.map((column) => (
              <div key={column.name} className={column.text ? 'card-wide' : undefined}>
                <dt>{column.name}</dt>
                <dd>{column.show({ id, node, now, least })}</dd>
              </div>
            ))}
          </dl>
        </li>
      ))}
    </ul>
  );
}
