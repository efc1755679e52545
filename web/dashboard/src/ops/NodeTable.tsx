import type { ReactNode } from 'react';
import { ErrorBoundary } from '../app/ErrorBoundary';
import { Problem } from '../app/Problem';
import { nodeState } from '../lib/ops';
import type { NodeReport } from '../lib/payloads';
import { COLUMNS, type NodeProps } from './columns';

interface Props {
  list: readonly (readonly [id: string, node: NodeReport])[];
  now: number;
  least: number;
}

/** The nodes as a table, on wide screens. */
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
            <ErrorBoundary key={id} fallback={({ message }) => <BadNode id={id} reason={message} />}>
              <NodeRow id={id} node={node} now={now} least={least} />
            </ErrorBoundary>
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
          <ErrorBoundary fallback={({ message }) => <p className="bad">{unreadable(id, message)}</p>}>
            <NodeCard id={id} node={node} now={now} least={least} />
          </ErrorBoundary>
        </li>
      ))}
    </ul>
  );
}

const unreadable = (id: string, reason: string) => `ops:nodes, ${id}, cannot be shown: ${reason}`;

function BadNode({ id, reason }: { id: string; reason: string }) {
  return (
    <tr data-testid={`node-${id}`} data-bad>
      <td className="bad" colSpan={COLUMNS.length + 1}>
        {unreadable(id, reason)}
      </td>
    </tr>
  );
}

function NodeRow(props: NodeProps) {
  const { id, node, now, least } = props;
  return (
    <tr
      data-testid={`node-${id}`}
      data-silent={nodeState(node, now, least).kind === 'silent' || undefined}
      data-bad={node.problem !== undefined || undefined}
    >
      <th scope="row" title={id}>
        <Name id={id} node={node} />
      </th>
      {COLUMNS.map((column) => (
        <td key={column.name} className={column.text ? undefined : 'right'}>
          {column.show(props)}
        </td>
      ))}
    </tr>
  );
}

function NodeCard(props: NodeProps) {
  return (
    <>
      <h3>
        <Name id={props.id} node={props.node} />
      </h3>
      <dl>
        {COLUMNS.map((column) => (
          <div key={column.name} className={column.text ? 'card-wide' : undefined}>
            <dt>{column.name}</dt>
            <dd>{column.show(props)}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

function Name({ id, node }: Pick<NodeProps, 'id' | 'node'>): ReactNode {
  return (
    <>
      {node.name} <small className="dim">{node.version}</small>{' '}
      <Problem topic={`ops:nodes, ${id}`} problem={node.problem} />
    </>
  );
}
