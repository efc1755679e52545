import { usePushClient } from 'nexus-push-react';
import { useEffect, useMemo } from 'react';
import { useAuth } from '../../app/auth';
import { readTopic } from '../../lib/api';
import { readTrade } from '../../lib/payloads';
import { followStream } from '../../lib/stream';
import { type TradeLog, tradeLog } from './trade-log';

/** Follows the trades of an instrument while the component is mounted. */
export function useTradeLog(symbol: string): TradeLog {
  const client = usePushClient();
  const { token } = useAuth();
  const log = useMemo(() => tradeLog(symbol), [symbol]);
  useEffect(
    () =>
      followStream({
        client,
        topic: `trades:${symbol}`,
        position: log.position,
        parse: readTrade,
        read: (topic, signal) => readTopic(topic, token, signal),
        deliver: (batch) => log.add(batch),
      }),
    [client, token, symbol, log],
  );
  return log;
}
