import type { ReactNode } from 'react';
import { formatBytes, formatCount, formatDuration, formatRate } from '../lib/format';
import { nodeState } from '../lib/ops';
import type { NodeReport } from '../lib/payloads';
import { SessionsBar } from './SessionsBar';
import { StateBadge } from './StateBadge';

/** A node, its id, and the clock for its age. */
export interface NodeProps {
  id: string;
  node: NodeReport;
  now: number;
  least: number;
}

/** One value of a node: a column of the table, or a line of a card. */
export interface Column {
  name: string;
  title?: string;
  /** Text is aligned left, numbers right. */
  text?: boolean;
  show: (props: NodeProps) => ReactNode;
}

/** All columns except the name. */
export const COLUMNS: readonly Column[] = [
  {
    name: 'State',
    text: true,
    show: ({ node, now, least }) => <StateBadge state={nodeState(node, now, least)} />,
  },
  { name: 'Sessions', text: true, show: ({ node }) => <SessionsBar node={node} /> },
  { name: 'Subs', title: 'Subscriptions', show: ({ node }) => formatCount(node.subscriptions) },
  { name: 'Deliveries/s', show: ({ node }) => formatRate(node.rates.deliveries) },
  { name: 'Deltas/s', title: 'Deltas from the sources', show: ({ node }) => formatRate(node.rates.deltas) },
  {
    name: 'Conflated/s',
    title: 'Deltas replaced by a newer state',
    show: ({ node }) => formatRate(node.rates.conflated),
  },
  { name: 'Sent/s', show: ({ node }) => formatBytes(node.rates.sent_bytes) },
  {
    name: 'Backlog',
    title: 'Bytes waiting for slow sessions',
    show: ({ node }) => formatBytes(node.backlog_bytes),
  },
  {
    name: 'Slow',
    title: 'Sessions with a full socket, or at their limit of bytes/s',
    show: ({ node: { slow_sessions: slow } }) => (
      <span className="number" data-warn={slow > 0 || undefined}>
        {formatCount(slow)}
      </span>
    ),
  },
  {
    name: 'Queue',
    title: 'Events in the longest queue of a shard',
    show: ({ node }) => formatCount(node.queue_depth),
  },
  { name: 'Memory', show: ({ node }) => formatBytes(node.rss_bytes) },
  { name: 'Uptime', show: ({ node }) => formatDuration(node.at - node.started_at) },
];
