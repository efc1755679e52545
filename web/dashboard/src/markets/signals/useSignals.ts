import { usePushClient } from 'nexus-push-react';
import { useEffect, useState } from 'react';
import { useAuth } from '../../app/auth';
import { readTopic } from '../../lib/api';
import { readSignal } from '../../lib/payloads';
import { addSignals, type SignalEntry } from '../../lib/signals';
import { followStream } from '../../lib/stream';

const TOPIC = 'signals:all';

/** The signals since the page was loaded, and before it those that the server has kept. */
export function useSignals(): readonly SignalEntry[] {
  const client = usePushClient();
  const { token } = useAuth();
  const [entries, setEntries] = useState<readonly SignalEntry[]>([]);
  // The position is kept as long as the entries: after a remount the stream continues where they end.
  const [position] = useState(() => ({ offset: -1, epoch: undefined }));
  useEffect(
    () =>
      followStream({
        client,
        topic: TOPIC,
        position,
        parse: readSignal,
        read: (topic, signal) => readTopic(topic, token, signal),
        deliver: (batch) => setEntries((old) => addSignals(old, batch)),
      }),
    [client, token, position],
  );
  return entries;
}
