import { useConnection } from 'nexus-push-react';
import { useCallback, useState } from 'react';
import { PanelBoundary } from '../app/PanelBoundary';
import { TokenForm } from '../app/TokenForm';
import { PHONE, useMedia } from '../lib/media';
import { BookPanel } from './book/BookPanel';
import { ChartPanel } from './chart/ChartPanel';
import { SignalsPanel } from './signals/SignalsPanel';
import { useSignals } from './signals/useSignals';
import { Tabs, type View } from './Tabs';
import { Tape } from './trades/Tape';
import type { TradeLog } from './trades/trade-log';
import { useTradeLog } from './trades/useTradeLog';
import { type Instruments, useInstruments } from './useInstruments';
import { useSelected } from './useSelected';
import { Watchlist } from './watchlist/Watchlist';

/** Default deliveries per second of each quote. */
const QUOTE_RATE = 10;
const QUOTE_RATE_PHONE = 5;
/** Of the book. */
const BOOK_RATE = 20;
const BOOK_RATE_PHONE = 5;

/** The traders' page. */
export function Markets({ maxRate }: { maxRate: number | undefined }) {
  const phone = useMedia(PHONE);
  const instruments = useInstruments();
  const [selected, select] = useSelected(instruments.symbols);
  // Followed here, so that it continues while another tab of the phone layout is open.
  const signals = useSignals();
  const [view, setView] = useState<View>('watchlist');
  const live = useConnection().status === 'connected';
  const quoteRate = maxRate ?? (phone ? QUOTE_RATE_PHONE : QUOTE_RATE);

  const pick = useCallback(
    (symbol: string) => {
      select(symbol);
      setView('chart');
    },
    [select],
  );

  if (instruments.error?.unauthorized === true && instruments.symbols === undefined) {
    return <TokenForm title="The server needs a token" />;
  }

  const shows = (one: View) => !phone || view === one;
  return (
    <div className="markets" data-view={view} data-live={live}>
      {shows('watchlist') && (
        <PanelBoundary className="watchlist" name="Watchlist">
          <Watchlist instruments={instruments} selected={selected} onSelect={pick} maxRate={quoteRate} />
        </PanelBoundary>
      )}
      {selected === undefined
        ? !phone && <div className="panel chart" />
        : (shows('chart') || shows('book')) && (
            <Instrument
              symbol={selected}
              instruments={instruments}
              chart={shows('chart')}
              book={shows('book')}
              quoteRate={quoteRate}
              bookRate={phone ? BOOK_RATE_PHONE : BOOK_RATE}
            />
          )}
      {shows('signals') && (
        <PanelBoundary className="signals" name="Signals">
          <SignalsPanel entries={signals} onSelect={pick} />
        </PanelBoundary>
      )}
      {phone && <Tabs view={view} onView={setView} />}
    </div>
  );
}

interface InstrumentProps {
  symbol: string;
  instruments: Instruments;
  chart: boolean;
  book: boolean;
  quoteRate: number;
  bookRate: number;
}

/** What is shown of the selected instrument. */
function Instrument({ symbol, instruments, chart, book, quoteRate, bookRate }: InstrumentProps) {
  const log: TradeLog = useTradeLog(symbol);
  const has = instruments.symbols === undefined ? undefined : instruments.books.has(symbol);
  return (
    <>
      {chart && (
        <PanelBoundary key={`chart ${symbol}`} className="chart" name={`The chart of ${symbol}`}>
          <ChartPanel symbol={symbol} log={log} maxRate={quoteRate} />
        </PanelBoundary>
      )}
      {book && (
        <PanelBoundary key={`book ${symbol}`} className="book" name={`The order book of ${symbol}`}>
          <BookPanel symbol={symbol} has={has} maxRate={bookRate} />
        </PanelBoundary>
      )}
      {chart && (
        <PanelBoundary key={`tape ${symbol}`} className="tape" name={`The trades of ${symbol}`}>
          <Tape symbol={symbol} log={log} />
        </PanelBoundary>
      )}
    </>
  );
}
