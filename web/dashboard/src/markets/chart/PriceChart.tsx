import { useEffect, useRef } from 'react';
import type { Candle } from '../../lib/candles';
import { useShownTheme } from '../../lib/theme';
import type { ChartMode, TradeLog } from '../trades/trade-log';
import { ChartView } from './chart-view';
import { readColours } from './colours';
import './chart.css';

/** The chart of one instrument in one mode; another instrument or mode needs another `key`. */
export default function PriceChart({ log, mode }: { log: TradeLog; mode: ChartMode }) {
  const theme = useShownTheme();
  const containerRef = useRef<HTMLDivElement>(null);
  const legendRef = useRef<HTMLParagraphElement>(null);
  const viewRef = useRef<ChartView>(undefined);

  useEffect(() => {
    const container = containerRef.current;
    if (container === null) return;
    const legend = (candle: Candle | undefined) => {
      if (legendRef.current === null) return;
      legendRef.current.textContent = candle === undefined ? 'No trades yet' : describe(candle, log.decimals);
      legendRef.current.dataset.sign =
        candle === undefined || mode === 'line' ? '' : candle.close < candle.open ? 'down' : 'up';
    };
    const view = new ChartView(container, log, mode, readColours(container), legend);
    viewRef.current = view;
    // The log calls at most once per frame.
    const stop = log.subscribe(() => view.update());
    return () => {
      stop();
      viewRef.current = undefined;
      view.destroy();
    };
  }, [log, mode]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: the colours are read from the style sheets, which follow the theme
  useEffect(() => {
    if (containerRef.current !== null) viewRef.current?.setColours(readColours(containerRef.current));
  }, [theme]);

  return (
    <>
      <p ref={legendRef} className="legend num" />
      <div ref={containerRef} className="chart-canvas" data-testid="chart" />
    </>
  );
}

/** The numbers of a candle in one line. */
function describe({ open, high, low, close, volume }: Candle, decimals: number): string {
  const [o, h, l, c] = [open, high, low, close].map((price) => price.toFixed(decimals));
  return `O ${o}  H ${h}  L ${l}  C ${c}  V ${volume.toFixed(volume < 1000 ? 2 : 0)}`;
}
