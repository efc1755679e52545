import { formatDuration } from '../lib/format';
import type { NodeState } from '../lib/ops';

/** The state of a node, in a word or with its reasons. */
export function StateBadge({ state }: { state: NodeState }) {
  return (
    <span className="state" data-state={state.kind}>
      {words(state)}
    </span>
  );
}

function words(state: NodeState): string {
  switch (state.kind) {
    case 'ready':
      return 'ready';
    case 'draining':
      return 'draining';
    case 'silent':
      return `silent for ${formatDuration(state.forMs)}`;
    case 'not-ready':
      return state.reasons.length > 0 ? `not ready: ${state.reasons.join('; ')}` : 'not ready';
  }
}
