// biome-ignore-all lint/a11y/useSemanticElements: rows of a virtual list lie at computed places, which table layout forbids
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus and points at rows with aria-activedescendant
import { memo } from 'react';
import type { SortOrder } from '../../lib/instruments';

/** Names of the columns; the first one sorts. */
export const ListHeader = memo(function ListHeader({
  order,
  onToggle,
}: {
  order: SortOrder;
  onToggle: () => void;
}) {
  return (
    <div role="rowgroup" className="list-header">
      <div role="row" className="row-head" aria-rowindex={1}>
        <span role="columnheader" className="cell-symbol" aria-sort={order}>
          <button type="button" onClick={onToggle}>
            Symbol <span aria-hidden="true">{order === 'ascending' ? '↑' : '↓'}</span>
          </button>
        </span>
        <Column name="last">Last</Column>
        <Column name="change">Chg</Column>
        <Column name="bid">Bid</Column>
        <Column name="ask">Ask</Column>
        <Column name="spread">Spread</Column>
        <Column name="age">Age</Column>
      </div>
    </div>
  );
});

function Column({ name, children }: { name: string; children: string }) {
  return (
    <span role="columnheader" className={`cell-${name}`}>
      {children}
    </span>
  );
}
