import { usePushClient } from 'nexus-push-react';
import { useNow } from '../lib/clock';
import { readQuote } from '../lib/payloads';
import { useTitle } from './useTitle';

/** Writes the last price into the title of the tab, once per second. Does not subscribe itself. */
export function PageTitle({ symbol }: { symbol: string }) {
  const client = usePushClient();
  // Renders once per second.
  useNow();
  const last = readQuote(client.getTopicState(`quotes:${symbol}`).data).last;
  useTitle(last === undefined ? symbol : `${last} ${symbol}`);
  return null;
}
