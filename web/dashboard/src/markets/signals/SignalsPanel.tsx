import { type TopicState, useTopic } from 'nexus-push-react';
import { memo } from 'react';
import { ErrorBoundary } from '../../app/ErrorBoundary';
import { type SignalEntry, signalKey } from '../../lib/signals';
import { useReportSimulated } from '../../lib/simulated';
import { Announcer } from './Announcer';
import { BadSignal, SignalRow } from './SignalRow';

interface Props {
  entries: readonly SignalEntry[];
  onSelect: (symbol: string) => void;
}

/** Why the server refuses the topic. Selected, so that other changes of the topic do not render the panel. */
function refusal({ status, error }: TopicState<unknown>): string | undefined {
  return status === 'error' ? (error?.message ?? 'no reason given') : undefined;
}

/** Signals, newest on top. */
export const SignalsPanel = memo(function SignalsPanel({ entries, onSelect }: Props) {
  const refused = useTopic('signals:all', { keep: 0, select: refusal });
  useReportSimulated('signals:all', entries[0]?.data.sim === true);
  return (
    <section className="panel signals" aria-label="Signals">
      <div className="panel-head">
        <h2>Signals</h2>
        <span className="dim num">{entries.length > 0 && entries.length}</span>
      </div>
      <div className="signals-head" aria-hidden="true">
        <span>Time</span>
        <span>Signal</span>
        <span>Symbol</span>
        <span>Confidence</span>
        <span>Price</span>
        <span>Target</span>
        <span>Stop</span>
        <span>Source</span>
      </div>
      {entries.length === 0 ? (
        <p className="note">{refused === undefined ? 'No signals yet.' : `Refused: ${refused}.`}</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
        <ol className="signals-list num" tabIndex={0} aria-label="Signals, newest first" reversed>
          {entries.map((entry) => (
            <ErrorBoundary
              key={signalKey(entry)}
              fallback={({ message }) => <BadSignal offset={entry.offset} reason={message} />}
            >
              <SignalRow
                entry={entry}
                current={entry.generation === entries[0]?.generation}
                onSelect={onSelect}
              />
            </ErrorBoundary>
          ))}
        </ol>
      )}
      <Announcer entries={entries} />
    </section>
  );
});
