import { type CSSProperties, memo } from 'react';
import { Problem } from '../../app/Problem';
import { formatTime, isoTime, NONE } from '../../lib/format';
import { isBad, type SignalEntry, signalKey } from '../../lib/signals';

interface Props {
  entry: SignalEntry;
  /** Of the current epoch of the stream; offsets of older epochs may be the same. */
  current: boolean;
  onSelect: (symbol: string) => void;
}

/** One signal, and below it the marker of a gap if there is one. */
export const SignalRow = memo(function SignalRow({ entry, current, onSelect }: Props) {
  const { offset, time, data, gapBefore } = entry;
  const { symbol, confidence } = data;
  return (
    <>
      <li
        className="signal"
        data-testid={current ? `signal-${offset}` : `old-signal-${signalKey(entry)}`}
        data-offset={offset}
        data-bad={isBad(data) || undefined}
        title={data.reason}
      >
        <time className="dim" dateTime={isoTime(data.time ?? time)}>
          {formatTime(data.time ?? time)}
        </time>
        <span className="badge" data-signal={data.signal}>
          {data.signal ?? '?'}
        </span>
        {symbol === undefined ? (
          <span className="signal-symbol bad">signals:all, {data.problem}</span>
        ) : (
          <button type="button" className="signal-symbol" title={symbol} onClick={() => onSelect(symbol)}>
            {symbol}
          </button>
        )}
        <span
          className="confidence"
          style={{ '--share': ((confidence ?? 0) / 100).toFixed(2) } as CSSProperties}
        >
          <span className="hidden">confidence </span>
          {confidence === undefined ? NONE : `${Math.round(confidence * 10) / 10}%`}
        </span>
        <Price name="price" value={data.price} />
        <Price name="target" value={data.target} />
        <Price name="stop" value={data.stop_loss} />
        <span className="signal-source dim">
          {data.source} <Problem topic={`signals:all, offset ${offset}`} problem={data.problem} />
        </span>
      </li>
      {gapBefore && (
        <li className="gap" data-testid="signals-gap">
          Signals may be missing here: the server could not recover all of them.
        </li>
      )}
    </>
  );
});

/** In place of a signal that could not be drawn. */
export function BadSignal({ offset, reason }: { offset: number; reason: string }) {
  return (
    <li className="signal" data-testid={`signal-${offset}`} data-offset={offset} data-bad>
      <span className="bad">
        signals:all, offset {offset}, cannot be shown: {reason}
      </span>
    </li>
  );
}

function Price({ name, value }: { name: string; value: string | undefined }) {
  return (
    <span className={`signal-${name}`} data-none={value === undefined || undefined}>
      <span className="label">{name} </span>
      {value ?? NONE}
    </span>
  );
}
