// The chart itself, outside of React: it draws the changes that it is given.
import {
  CandlestickSeries,
  ColorType,
  CrosshairMode,
  createChart,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  LineSeries,
  type MouseEventParams,
  TickMarkType,
  type Time,
  type UTCTimestamp,
} from 'lightweight-charts';
import type { Candle } from '../../lib/candles';
import type { ChartMode, TradeLog } from '../trades/trade-log';
import type { ChartColours } from './colours';

/** The candle under the crosshair, or the newest. */
export type OnLegend = (candle: Candle | undefined) => void;

const two = (n: number) => String(n).padStart(2, '0');

/** Local time: the library's own labels are in UTC. */
function clockLabel(time: Time, seconds: boolean): string {
  const d = new Date(Number(time) * 1000);
  const text = `${two(d.getHours())}:${two(d.getMinutes())}`;
  return seconds ? `${text}:${two(d.getSeconds())}` : text;
}

function dayLabel(time: Time): string {
  const d = new Date(Number(time) * 1000);
  return d.toLocaleDateString(undefined, { day: 'numeric', month: 'short' });
}

/** Draws the trades of one instrument in one mode. */
export class ChartView {
  readonly #chart: IChartApi;
  readonly #log: TradeLog;
  readonly #mode: ChartMode;
  readonly #onLegend: OnLegend;
  readonly #price: ISeriesApi<'Candlestick'> | ISeriesApi<'Line'>;
  readonly #volume: ISeriesApi<'Histogram'>;
  #colours: ChartColours;
  /** Start of the newest candle that is drawn. */
  #drawn = Number.NEGATIVE_INFINITY;
  /** Time under the crosshair. */
  #pointed: number | undefined;
  #decimals = -1;

  constructor(
    container: HTMLElement,
    log: TradeLog,
    mode: ChartMode,
    colours: ChartColours,
    onLegend: OnLegend,
  ) {
    this.#log = log;
    this.#mode = mode;
    this.#colours = colours;
    this.#onLegend = onLegend;
    this.#chart = createChart(container, {
      autoSize: true,
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.12, bottom: 0.2 } },
      timeScale: {
        borderVisible: false,
        timeVisible: true,
        secondsVisible: mode !== '1m',
        rightOffset: 4,
        barSpacing: mode === 'line' ? 6 : 13,
        tickMarkFormatter: (time: Time, type: TickMarkType) =>
          type < TickMarkType.Time ? dayLabel(time) : clockLabel(time, type === TickMarkType.TimeWithSeconds),
      },
      localization: { timeFormatter: (time: Time) => clockLabel(time, mode !== '1m') },
      crosshair: { mode: CrosshairMode.Normal },
    });
    this.#price =
      mode === 'line'
        ? this.#chart.addSeries(LineSeries, { lineWidth: 2 })
        : this.#chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#volume = this.#chart.addSeries(HistogramSeries, {
      priceFormat: { type: 'volume' },
      // A scale of its own, over the bottom of the chart.
      priceScaleId: '',
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.#volume.priceScale().applyOptions({ scaleMargins: { top: 0.86, bottom: 0 } });
    this.#chart.subscribeCrosshairMove(this.#onCrosshair);
    this.setColours(colours);
  }

  /** Applies new colours. */
  setColours(colours: ChartColours): void {
    this.#colours = colours;
    const { text, line, grid, up, down, label, font } = colours;
    this.#chart.applyOptions({
      layout: {
        background: { type: ColorType.Solid, color: 'transparent' },
        textColor: text,
        fontFamily: font,
        fontSize: 11,
      },
      grid: { vertLines: { color: grid }, horzLines: { color: grid } },
      crosshair: {
        vertLine: { color: text, labelBackgroundColor: label },
        horzLine: { color: text, labelBackgroundColor: label },
      },
    });
    if (this.#mode === 'line') this.#price.applyOptions({ color: line });
    else this.#price.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.#drawAll();
  }

  /** Draws the trades since the last call. */
  update(): void {
    const { list } = this.#log.candles[this.#mode];
    if (this.#drawn === Number.NEGATIVE_INFINITY) {
      this.#drawAll();
      return;
    }
    this.#setDecimals();
    for (const candle of this.#log.candles[this.#mode].since(this.#drawn)) {
      this.#price.update(this.#bar(candle));
      this.#volume.update(this.#volumeBar(candle));
    }
    this.#drawn = list[list.length - 1]?.time ?? this.#drawn;
    this.#tellLegend();
  }

  /** Removes the chart. */
  destroy(): void {
    this.#chart.unsubscribeCrosshairMove(this.#onCrosshair);
    this.#chart.remove();
  }

  #drawAll(): void {
    const { list } = this.#log.candles[this.#mode];
    this.#setDecimals();
    this.#price.setData(list.map((candle) => this.#bar(candle)));
    this.#volume.setData(list.map((candle) => this.#volumeBar(candle)));
    this.#drawn = list[list.length - 1]?.time ?? Number.NEGATIVE_INFINITY;
    this.#tellLegend();
  }

  #setDecimals(): void {
    const precision = this.#log.decimals;
    if (precision === this.#decimals) return;
    this.#decimals = precision;
    this.#price.applyOptions({ priceFormat: { type: 'price', precision, minMove: 10 ** -precision } });
  }

  #bar(candle: Candle) {
    const { open, high, low, close } = candle;
    const time = candle.time as UTCTimestamp;
    // A line uses `value` and ignores the rest; candles use the rest and ignore `value`.
    return { time, value: close, open, high, low, close };
  }

  #volumeBar(candle: Candle) {
    const { upSoft, downSoft } = this.#colours;
    return {
      time: candle.time as UTCTimestamp,
      value: candle.volume,
      color: candle.close < candle.open ? downSoft : upSoft,
    };
  }

  readonly #onCrosshair = ({ time }: MouseEventParams): void => {
    this.#pointed = time === undefined ? undefined : Number(time);
    this.#tellLegend();
  };

  #tellLegend(): void {
    const { list } = this.#log.candles[this.#mode];
    const pointed = this.#pointed;
    const candle = pointed === undefined ? undefined : list.findLast((one) => one.time === pointed);
    this.#onLegend(candle ?? list[list.length - 1]);
  }
}
