// biome-ignore-all lint/a11y/useSemanticElements: rows of a virtual list lie at computed places, which table layout forbids
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus and points at rows with aria-activedescendant
import { useTopic } from 'nexus-push-react';
import { memo } from 'react';
import { ErrorBoundary } from '../../app/ErrorBoundary';
import { Problem } from '../../app/Problem';
import { useOlderThan } from '../../lib/clock';
import { changePercent, formatPercent, formatSpread } from '../../lib/format';
import { readQuote } from '../../lib/payloads';
import { useReportSimulated } from '../../lib/simulated';
import { AgeCell } from './AgeCell';
import { BadRow } from './BadRow';
import { Cell } from './Cell';
import { FlashCell } from './FlashCell';
import { usePaced } from './usePaced';

/** A quote older than this is greyed, even if the server does not report it stale. */
const OLD_MS = 30_000;

interface Props {
  symbol: string;
  /** Position in the list, from 0. */
  index: number;
  /** Distance from the top of the list in px. */
  top: number;
  /** The keyboard cursor is on this row. */
  active: boolean;
  selected: boolean;
  maxRate: number;
}

/** The id of a symbol's row. */
export function rowId(symbol: string): string {
  return `quote-${symbol}`;
}

/** One instrument. An error in it affects no other row. */
export const Row = memo(function Row(props: Props) {
  const { symbol, index, top } = props;
  return (
    <ErrorBoundary
      fallback={({ message }) => <BadRow symbol={symbol} index={index} top={top} reason={message} />}
    >
      <QuoteRow {...props} />
    </ErrorBoundary>
  );
});

/** Subscribes while it is mounted. */
const QuoteRow = memo(function QuoteRow({ symbol, index, top, active, selected, maxRate }: Props) {
  const enabled = usePaced();
  const topic = `quotes:${symbol}` as const;
  const { data, time, stale, staleSince } = useTopic(topic, { maxRate, enabled });
  const since = staleSince ?? time;
  const old = useOlderThan(since, OLD_MS) || stale;
  const quote = readQuote(data);
  useReportSimulated(topic, quote.sim);
  const change = changePercent(quote.open, quote.last);

  return (
    // Clicks and keys are handled by the list.
    <div
      role="row"
      id={rowId(symbol)}
      className="row"
      // Not a transform: the browser would create a layer for every row, and rows rarely move.
      style={{ top }}
      // The header is row 1.
      aria-rowindex={index + 2}
      aria-selected={selected}
      data-active={active || undefined}
      data-stale={old || undefined}
      data-bad={quote.problem !== undefined || undefined}
      data-symbol={symbol}
      data-testid={`row-${symbol}`}
    >
      <Cell column="symbol">
        {symbol} <Problem topic={topic} problem={quote.problem} />
      </Cell>
      <FlashCell name="last" value={quote.last} />
      <Cell column="change" sign={signOf(change)}>
        {formatPercent(change)}
      </Cell>
      <FlashCell name="bid" value={quote.bid} />
      <FlashCell name="ask" value={quote.ask} />
      <Cell column="spread">{formatSpread(quote.bid, quote.ask)}</Cell>
      <AgeCell time={since} />
    </div>
  );
});

function signOf(change: number | undefined): 'up' | 'down' | undefined {
  // What is shown as 0.00% has no colour.
  if (change === undefined || Math.abs(change) < 0.005) return undefined;
  return change > 0 ? 'up' : 'down';
}
