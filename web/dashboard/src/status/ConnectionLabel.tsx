import { type ConnectionState, useConnection, usePushClient } from 'nexus-push-react';
import { useNow } from '../lib/clock';
import { formatDuration } from '../lib/format';

/** The names of the states of a connection. */
export type ShownState = 'connecting' | 'connected' | 'reconnecting' | 'closing' | 'disconnected';

/** The state to show. */
export function shownState(connection: ConnectionState): ShownState {
  const { status, closing, error, attempts } = connection;
  if (status === 'disconnected') return 'disconnected';
  if (status === 'connected') return closing === undefined ? 'connected' : 'closing';
  // Without an error it is the first attempt.
  return error === undefined && attempts === 0 && closing === undefined ? 'connecting' : 'reconnecting';
}

/** Shows the state of the connection. */
export function ConnectionLabel() {
  const connection = useConnection();
  const state = shownState(connection);
  return (
    <span className="conn" data-testid="conn-status" data-state={state}>
      {/* The words only: a counting clock would be read out every second. */}
      <span role="status">{WORDS[state]}</span>
      {state === 'reconnecting' && <Waiting connection={connection} />}
      {state === 'closing' && <small>server shuts down</small>}
      {state === 'disconnected' && <Retry reason={connection.error?.message} />}
    </span>
  );
}

const WORDS: Record<ShownState, string> = {
  connecting: 'Connecting',
  connected: 'Connected',
  reconnecting: 'Reconnecting',
  closing: 'Closing',
  disconnected: 'Disconnected',
};

function Waiting({ connection }: { connection: ConnectionState }) {
  const now = useNow();
  return (
    <small className="num">
      attempt {connection.attempts + 1}, {formatDuration(now - connection.since)}
    </small>
  );
}

function Retry({ reason }: { reason: string | undefined }) {
  const client = usePushClient();
  return (
    <>
      {reason !== undefined && <small>{reason}</small>}
      <button type="button" className="link" onClick={() => client.connect()}>
        Connect
      </button>
    </>
  );
}
