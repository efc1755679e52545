// Counts the messages on the socket, and measures their age. The SDK passes on neither, so this reads the socket itself;
// it reads only the end of each message.
import { median } from './rates';

/** One publication's age when it arrived. */
interface Sample {
  at: number;
  age: number;
}

/** Number of samples that is enough for the median of the last second. */
const WINDOW_MS = 1000;
const SAMPLES_MAX = 512;

// A push ends with the time at the source: …,"time":1723161256313}}}
const TIME_AT_END = /"time":(\d{12,14})\}\}\}\s*$/;

/**
 * The time at the source of the last publication in a message, if there is one. Snapshots do not count: they are as
 * old as the last change of their topic, which says nothing about the delivery.
 */
export function timeAtEnd(message: string): number | undefined {
  const end = message.slice(-96);
  if (end.includes('"snapshot"')) return undefined;
  const found = TIME_AT_END.exec(end);
  return found?.[1] === undefined ? undefined : Number(found[1]);
}

/** Counts since the page was loaded. */
export class SocketMeter {
  /** Characters of the messages, which are bytes as long as they are ASCII. */
  bytes = 0;
  #samples: Sample[] = [];

  /** A message arrived. */
  message(data: unknown, now: number): void {
    if (typeof data !== 'string') return;
    this.bytes += data.length;
    const time = timeAtEnd(data);
    if (time === undefined) return;
    this.#samples.push({ at: now, age: now - time });
    if (this.#samples.length > 2 * SAMPLES_MAX) this.#samples = this.#samples.slice(-SAMPLES_MAX);
  }

  /** Median age of the messages of the last second, in ms. */
  age(now: number): number | undefined {
    this.#samples = this.#samples.filter((sample) => now - sample.at <= WINDOW_MS);
    return median(this.#samples.map((sample) => sample.age));
  }
}

/** A WebSocket class that reports to `meter`, for the SDK's option `websocket`. */
export function countingSocket(meter: SocketMeter): typeof WebSocket {
  return class extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols);
      this.addEventListener('message', (event) => meter.message(event.data, Date.now()));
    }
  };
}
