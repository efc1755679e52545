import { type CSSProperties, memo } from 'react';
import { formatTime, NONE } from '../../lib/format';
import { type SignalEntry, signalKey } from '../../lib/signals';

interface Props {
  entry: SignalEntry;
  /** Of the present epoch of the stream; offsets of older ones may be the same. */
  current: boolean;
  onSelect: (symbol: string) => void;
}

/** One signal, and below it the marker of a gap if there is one. */
export const SignalRow = memo(function SignalRow({ entry, current, onSelect }: Props) {
  const { offset, time, data, gapBefore } = entry;
  const confidence = data.confidence === undefined ? undefined : Math.min(100, Math.max(0, data.confidence));
  return (
    <>
      <li
        className="signal"
        data-testid={current ? `signal-${offset}` : `old-signal-${signalKey(entry)}`}
        data-offset={offset}
        title={data.reason}
      >
        <time className="dim" dateTime={new Date(data.time ?? time).toISOString()}>
          {formatTime(data.time ?? time)}
        </time>
        <span className="badge" data-signal={data.signal}>
          {data.signal}
        </span>
        <button type="button" className="signal-symbol" onClick={() => onSelect(data.symbol)}>
          {data.symbol}
        </button>
        <span
          className="confidence"
          style={{ '--share': ((confidence ?? 0) / 100).toFixed(2) } as CSSProperties}
        >
          <span className="hidden">confidence </span>
          {confidence === undefined ? NONE : `${Math.round(confidence)}%`}
        </span>
        <Price name="price" value={data.price} />
        <Price name="target" value={data.target} />
        <Price name="stop" value={data.stop_loss} />
        <span className="signal-source dim">{data.source}</span>
      </li>
      {gapBefore && (
        <li className="gap" data-testid="signals-gap">
          Signals may be missing here: the server could not recover all of them.
        </li>
      )}
    </>
  );
});

function Price({ name, value }: { name: string; value: string | undefined }) {
  return (
    <span className={`signal-${name}`} data-none={value === undefined || undefined}>
      <span className="label">{name} </span>
      {value ?? NONE}
    </span>
  );
}
