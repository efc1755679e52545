import { ErrorBoundary } from '../app/ErrorBoundary';
import { TokenForm } from '../app/TokenForm';
import { useTitle } from '../app/useTitle';
import { PHONE, useMedia } from '../lib/media';
import { NodeCards, NodeTable } from './NodeTable';
import { SourceTable } from './SourceTable';
import { TotalTiles } from './TotalTiles';
import { useNodes } from './useNodes';
import './ops.css';

const unshown = ({ message }: Error) => (
  <p className="note" role="alert" data-testid="bad-panel">
    ops:nodes: this part cannot be shown: {message}
  </p>
);

/** The operators' page. */
export default function Ops() {
  const { topic, nodes, totals, history, now, least } = useNodes();
  const phone = useMedia(PHONE);
  useTitle('Operations');

  if (topic.status === 'error') {
    return (
      <TokenForm title="This page needs a token for the topic ops:nodes" reason={topic.error?.message} />
    );
  }
  if (totals.nodes === 0) {
    return (
      <p className="note">
        {topic.status === 'live' ? 'No node has reported yet.' : 'Waiting for the reports of the nodes…'}
      </p>
    );
  }

  // By name, so that rows keep their positions.
  const list = Object.entries(nodes).sort(([, a], [, b]) => a.name.localeCompare(b.name));
  return (
    <div className="ops">
      <ErrorBoundary fallback={unshown}>
        <TotalTiles totals={totals} history={history} now={now} />
      </ErrorBoundary>
      <section aria-label="Nodes">
        <h2>Nodes</h2>
        <ErrorBoundary fallback={unshown}>
          {phone ? (
            <NodeCards list={list} now={now} least={least} />
          ) : (
            <NodeTable list={list} now={now} least={least} />
          )}
        </ErrorBoundary>
      </section>
      <section aria-label="Sources">
        <h2>Sources</h2>
        <ErrorBoundary fallback={unshown}>
          <SourceTable list={list} now={now} least={least} />
        </ErrorBoundary>
      </section>
    </div>
  );
}
