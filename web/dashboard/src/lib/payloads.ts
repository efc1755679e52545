// What the topics of this server carry. Declared once; `useTopic` infers its payload from the topic's name.

/** State of `quotes:SYM`. Prices and sizes are text, exactly as the source wrote them. */
export interface Quote {
  sim?: boolean;
  symbol?: string;
  bid?: string;
  ask?: string;
  bid_size?: string;
  ask_size?: string;
  last?: string;
  open?: string;
}

/** State of `book:SYM`: size by price, bids and asks. */
export interface Book {
  sim?: boolean;
  b?: Record<string, string>;
  a?: Record<string, string>;
}

/** An event of `trades:SYM`. */
export interface Trade {
  sim?: boolean;
  id?: number;
  p: string;
  q: string;
  side?: 'buy' | 'sell';
}

/** An event of `signals:all`. */
export interface Signal {
  sim?: boolean;
  id: string | number;
  source?: string;
  time?: number;
  symbol: string;
  signal: 'BUY' | 'SELL' | 'HOLD';
  confidence?: number;
  price?: string;
  target?: string;
  stop_loss?: string;
  reason?: string;
}

/** A source, as a node reports it. */
export interface NodeSource {
  name: string;
  connected: boolean;
  lag_ms: number;
  deltas: number;
  note: string | null;
}

/** What a node reports about itself, once a second. */
export interface NodeReport {
  name: string;
  version: string;
  at: number;
  started_at: number;
  ready: boolean;
  reasons: string[];
  draining: boolean;
  sessions: number;
  sessions_max: number;
  sessions_by_shard: number[];
  subscriptions: number;
  topics: number;
  slow_sessions: number;
  backlog_bytes: number;
  queue_depth: number;
  deltas: number;
  deliveries: number;
  conflated: number;
  visits: number;
  sent_bytes: number;
  closes: number;
  rss_bytes: number;
  rates: { deltas: number; deliveries: number; conflated: number; visits: number; sent_bytes: number };
  sources: NodeSource[];
}

/** State of `ops:nodes`: reports by node id. */
export type Nodes = Record<string, NodeReport>;

declare module 'nexus-push-react' {
  interface TopicPayloads {
    [topic: `quotes:${string}`]: Quote;
    [topic: `book:${string}`]: Book;
    [topic: `trades:${string}`]: Trade;
    'signals:all': Signal;
    'ops:nodes': Nodes;
  }
}
