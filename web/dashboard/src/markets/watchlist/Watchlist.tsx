// biome-ignore-all lint/a11y/useSemanticElements: rows of a virtual list lie at computed places, which table layout forbids
import { useVirtualizer } from '@tanstack/react-virtual';
import { type KeyboardEvent, type MouseEvent, memo, useEffect, useMemo, useRef, useState } from 'react';
import { filterSymbols, moveCursor, type SortOrder, sortSymbols } from '../../lib/instruments';
import { useSize } from '../../lib/media';
import type { Instruments } from '../useInstruments';
import { ListHeader } from './ListHeader';
import { Row, rowId } from './Row';
import { useSlashFocus } from './useSlashFocus';

interface Props {
  instruments: Instruments;
  selected: string | undefined;
  onSelect: (symbol: string) => void;
  maxRate: number;
}

// Also in watchlist.css. Two lines where the list is narrow.
const HEADER_HEIGHT = 26;
const ROW_HEIGHT = 25;
const NARROW_ROW_HEIGHT = 46;
const NARROW = 430;

/** All instruments; only the rows in view exist and are subscribed. */
export const Watchlist = memo(function Watchlist({ instruments, selected, onSelect, maxRate }: Props) {
  const [query, setQuery] = useState('');
  const [order, setOrder] = useState<SortOrder>('ascending');
  const [cursor, setCursor] = useState<string>();
  const filterRef = useRef<HTMLInputElement>(null);
  const scrollerRef = useRef<HTMLDivElement>(null);
  const [setSized, size] = useSize<HTMLDivElement>();
  const narrow = size.width > 0 && size.width < NARROW;
  const rowHeight = narrow ? NARROW_ROW_HEIGHT : ROW_HEIGHT;
  useSlashFocus(filterRef);

  const sorted = useMemo(() => sortSymbols(instruments.symbols ?? [], order), [instruments.symbols, order]);
  const shown = useMemo(() => filterSymbols(sorted, query), [sorted, query]);
  const at = cursor === undefined ? -1 : shown.indexOf(cursor);

  const virtualizer = useVirtualizer({
    count: shown.length,
    getScrollElement: () => scrollerRef.current,
    getItemKey: (index) => shown[index] ?? index,
    estimateSize: () => rowHeight,
    overscan: 4,
    // The header lies over the top of the list.
    scrollPaddingStart: HEADER_HEIGHT,
    scrollMargin: HEADER_HEIGHT,
    // Rows are drawn in the next frame anyway.
    useFlushSync: false,
  });
  // biome-ignore lint/correctness/useExhaustiveDependencies: all rows are measured anew when their height changes
  useEffect(() => virtualizer.measure(), [virtualizer, rowHeight]);

  const items = virtualizer.getVirtualItems();
  const cursorShown = items.some((item) => item.index === at);

  function onKeyDown(event: KeyboardEvent) {
    const inFilter = event.target === filterRef.current;
    if (event.key === 'Enter') {
      // In the filter, Enter without a cursor selects the first match.
      const symbol = shown[Math.max(at, 0)];
      if (symbol === undefined) return;
      setCursor(symbol);
      onSelect(symbol);
      event.preventDefault();
      return;
    }
    // Home and End belong to the text.
    if (inFilter && (event.key === 'Home' || event.key === 'End')) return;
    const page = Math.max(1, Math.floor((size.height - HEADER_HEIGHT) / rowHeight) - 1);
    const to = moveCursor(event.key, at, shown.length, page);
    if (to === undefined) return;
    event.preventDefault();
    setCursor(shown[to]);
    virtualizer.scrollToIndex(to, { align: 'auto' });
  }

  function onClick(event: MouseEvent) {
    const row = (event.target as Element).closest<HTMLElement>('[data-symbol]');
    const symbol = row?.dataset.symbol;
    if (symbol === undefined) return;
    setCursor(symbol);
    onSelect(symbol);
  }

  function toggleOrder() {
    setOrder(order === 'ascending' ? 'descending' : 'ascending');
  }

  return (
    <section className="panel watchlist" aria-label="Watchlist" onKeyDown={onKeyDown}>
      <div className="panel-head">
        <h2>Watchlist</h2>
        <span className="dim num">
          {shown.length === sorted.length ? sorted.length : `${shown.length} of ${sorted.length}`}
        </span>
        <input
          ref={filterRef}
          type="search"
          className="filter"
          placeholder="Filter  ( / )"
          aria-label="Filter instruments"
          aria-keyshortcuts="/"
          spellCheck={false}
          autoComplete="off"
          value={query}
          onChange={(event) => {
            setQuery(event.target.value);
            scrollerRef.current?.scrollTo(0, 0);
          }}
          onKeyDown={(event) => {
            if (event.key !== 'Escape') return;
            setQuery('');
            scrollerRef.current?.focus();
          }}
        />
      </div>
      {/* biome-ignore lint/a11y/useKeyWithClickEvents: the keyboard is handled by the section around it */}
      <div
        ref={(element) => {
          scrollerRef.current = element;
          setSized(element);
        }}
        role="grid"
        className="grid"
        data-narrow={narrow || undefined}
        tabIndex={0}
        aria-label="Instruments"
        aria-rowcount={shown.length + 1}
        aria-activedescendant={cursorShown && cursor !== undefined ? rowId(cursor) : undefined}
        onClick={onClick}
      >
        <ListHeader order={order} onToggle={toggleOrder} />
        <div role="rowgroup" className="rows" style={{ height: virtualizer.getTotalSize() }}>
          {items.map((item) => {
            const symbol = shown[item.index];
            if (symbol === undefined) return null;
            return (
              <Row
                key={symbol}
                symbol={symbol}
                index={item.index}
                top={item.start - HEADER_HEIGHT}
                active={symbol === cursor}
                selected={symbol === selected}
                maxRate={maxRate}
              />
            );
          })}
        </div>
        <Empty instruments={instruments} shown={shown.length} query={query} />
      </div>
    </section>
  );
});

/** Says why there are no rows. */
function Empty({ instruments, shown, query }: { instruments: Instruments; shown: number; query: string }) {
  if (shown > 0) return null;
  const { symbols, error } = instruments;
  if (symbols === undefined) {
    return <p className="note">{error === undefined ? 'Loading…' : `No answer: ${error.message}`}</p>;
  }
  if (symbols.length > 0) return <p className="note">Nothing matches “{query}”.</p>;
  return (
    <p className="note">
      There are no <code>quotes:</code> topics yet. Publish one:{' '}
      <code>nexus-push publish quotes:BTCUSDT '{'{"bid":"61800.1","ask":"61800.2"}'}'</code>
    </p>
  );
}
