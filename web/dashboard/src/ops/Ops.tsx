import { TokenForm } from '../app/TokenForm';
import { useTitle } from '../app/useTitle';
import { PHONE, useMedia } from '../lib/media';
import { NodeCards, NodeTable } from './NodeTable';
import { SourceTable } from './SourceTable';
import { TotalTiles } from './TotalTiles';
import { useNodes } from './useNodes';
import './ops.css';

/** The operators' page. */
export default function Ops() {
  const { topic, nodes, totals, history, now, least } = useNodes();
  const phone = useMedia(PHONE);
  useTitle('Operations');

  if (topic.status === 'error') {
    return <TokenForm title="This page needs a token that gives ops:nodes" reason={topic.error?.message} />;
  }
  if (totals.nodes === 0) {
    return (
      <p className="note">
        {topic.status === 'live' ? 'No node has reported yet.' : 'Waiting for the reports of the nodes…'}
      </p>
    );
  }

  // By name, so that rows stay where they are.
  const list = Object.entries(nodes).sort(([, a], [, b]) => a.name.localeCompare(b.name));
  return (
    <div className="ops">
      <TotalTiles totals={totals} history={history} now={now} />
      <section aria-label="Nodes">
        <h2>Nodes</h2>
        {phone ? (
          <NodeCards list={list} now={now} least={least} />
        ) : (
          <NodeTable list={list} now={now} least={least} />
        )}
      </section>
      <section aria-label="Sources">
        <h2>Sources</h2>
        <SourceTable list={list} now={now} least={least} />
      </section>
    </div>
  );
}
