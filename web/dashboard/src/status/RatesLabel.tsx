import { usePushClient } from 'nexus-push-react';
import { useEffect, useState } from 'react';
import { formatBytes, formatLatency, formatRate } from '../lib/format';
import type { SocketMeter } from '../lib/meter';
import { RateMeter } from '../lib/rates';

const EVERY_MS = 1000;

interface Rates {
  messages: number | undefined;
  bytes: number | undefined;
  age: number | undefined;
}

/** Messages and bytes per second, and the age of messages when they arrive. */
export function RatesLabel({ meter }: { meter: SocketMeter }) {
  const client = usePushClient();
  const [rates, setRates] = useState<Rates>({ messages: undefined, bytes: undefined, age: undefined });

  useEffect(() => {
    const messages = new RateMeter();
    const bytes = new RateMeter();
    const look = () => {
      const at = performance.now();
      setRates({
        messages: messages.look(client.stats().publications, at),
        bytes: bytes.look(meter.bytes, at),
        age: meter.age(Date.now()),
      });
    };
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => clearInterval(timer);
  }, [client, meter]);

  return (
    <dl className="rates num">
      <div title="Publications that arrived in the last second">
        <dt>msg/s</dt>
        <dd data-testid="msg-rate" data-value={rates.messages?.toFixed(1)}>
          {formatRate(rates.messages)}
        </dd>
      </div>
      <div title="Time from publication to arrival, median of the last second. Correct only if the clocks of source and browser agree.">
        <dt>age</dt>
        <dd data-testid="msg-age" data-value={rates.age}>
          {formatLatency(rates.age)}
        </dd>
      </div>
      <div
        className="rates-bytes"
        title="Bytes of messages that arrived in the last second, before compression"
      >
        <dt>in</dt>
        <dd data-testid="byte-rate" data-value={rates.bytes?.toFixed(0)}>
          {rates.bytes === undefined ? formatBytes(undefined) : `${formatBytes(rates.bytes)}/s`}
        </dd>
      </div>
    </dl>
  );
}
