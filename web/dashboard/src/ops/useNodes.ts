import { type TopicState, useTopic } from 'nexus-push-react';
import { useEffect, useState } from 'react';
import { useNow } from '../lib/clock';
import { addSample, leastAge, type Sample, type Totals, totalsOf } from '../lib/ops';
import { type Nodes, readNodes } from '../lib/payloads';

/** The data of the page. */
export interface NodesView {
  topic: TopicState<unknown>;
  nodes: Nodes;
  totals: Totals;
  history: readonly Sample[];
  now: number;
  /** How far the browser's clock is ahead, see `leastAge`. */
  least: number;
}

interface Memory {
  history: readonly Sample[];
  least: number;
}

// Outlives the page's component, so the history is still there after a visit to the markets page.
let memory: Memory = { history: [], least: Number.POSITIVE_INFINITY };

/** The reports of the nodes, and their history. */
export function useNodes(): NodesView {
  const topic = useTopic('ops:nodes');
  // The same object for the same report.
  const nodes = readNodes(topic.data);
  const now = useNow();
  const [{ history, least }, setMemory] = useState(memory);

  useEffect(() => {
    if (topic.data === undefined) return;
    const at = Date.now();
    const reports = readNodes(topic.data);
    const nextLeast = leastAge(memory.least, reports, at);
    const { deliveries, sessions, lagMs } = totalsOf(reports, at, nextLeast);
    memory = {
      history: addSample(memory.history, { at, deliveries, sessions, lagMs }),
      least: nextLeast,
    };
    setMemory(memory);
  }, [topic.data]);

  return { topic, nodes, totals: totalsOf(nodes, now, least), history, now, least };
}
