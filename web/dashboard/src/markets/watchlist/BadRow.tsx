// biome-ignore-all lint/a11y/useSemanticElements: rows of a virtual list lie at computed places, which table layout forbids
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus and points at rows with aria-activedescendant
import { Cell } from './Cell';

interface Props {
  symbol: string;
  index: number;
  top: number;
  reason: string;
}

/** In place of a row that could not be drawn. */
export function BadRow({ symbol, index, top, reason }: Props) {
  return (
    <div
      role="row"
      className="row row-bad"
      style={{ top }}
      aria-rowindex={index + 2}
      data-symbol={symbol}
      data-testid={`row-${symbol}`}
      data-bad
      title={`quotes:${symbol}: ${reason}`}
    >
      <Cell column="symbol">{symbol}</Cell>
      <span role="gridcell" className="bad">
        cannot be shown: {reason}
      </span>
    </div>
  );
}
