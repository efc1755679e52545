/** A command of the Centrifuge protocol, as far as the tests look at it. */
export interface Command {
  id?: number;
  connect?: { token?: string; name?: string };
  subscribe?: {
    channel: string;
    data?: unknown;
    recover?: boolean;
    offset?: number;
    epoch?: string;
  };
  unsubscribe?: { channel: string };
}

export interface Pub {
  epoch?: string;
  data: unknown;
  offset?: number;
  tags?: Record<string, string>;
}

export interface FakeTopic {
  class?: 'merge' | 'latest' | 'stream';
  epoch?: string;
  offset?: number;
  /** Sent after each subscribe that does not recover. */
  snapshot?: unknown;
  /** Sent after a subscribe that recovers. */
  missed?: Pub[];
  /** Whether recovery works; default true. */
  recovers?: boolean;
  /** Refuses the subscription. */
  error?: { code: number; message: string; temporary?: boolean };
}

/** A server of the Centrifuge JSON protocol behind a fake WebSocket. */
export class FakeServer {
  /** All commands received. */
  readonly commands: Command[] = [];
  /** Messages received: several commands can be in one. */
  frames = 0;
  readonly topics = new Map<string, FakeTopic>();
  connectError: { code: number; message: string } | undefined;
  /** Sockets do not open. */
  down = false;
  #socket: FakeSocket | undefined;

  /** The constructor to be passed as `options.websocket`. */
  readonly websocket = makeSocketClass(this);

  topic(name: string, topic: FakeTopic): void {
    this.topics.set(name, { epoch: 'e1', offset: 0, ...topic });
  }

  subscribes(channel?: string): NonNullable<Command['subscribe']>[] {
    return this.commands
      .flatMap(({ subscribe }) => subscribe ?? [])
      .filter((subscribe) => channel === undefined || subscribe.channel === channel);
  }

  unsubscribes(): string[] {
    return this.commands.flatMap(({ unsubscribe }) => unsubscribe?.channel ?? []);
  }

  publish(channel: string, pub: Pub): void {
    const topic = this.topics.get(channel);
    if (topic !== undefined && pub.offset !== undefined) topic.offset = pub.offset;
    this.send({ push: { channel, pub } });
  }

  message(data: unknown): void {
    this.send({ push: { message: { data } } });
  }

  /** Ends the connection, as the server or the network. */
  drop(code = 1006, reason = ''): void {
    this.#socket?.lose(code, reason);
  }

  send(...replies: unknown[]): void {
    this.#socket?.onmessage?.({ data: replies.map((reply) => JSON.stringify(reply)).join('\n') });
  }

  opened(socket: FakeSocket): void {
    this.#socket = socket;
  }

  received(data: string): void {
    this.frames++;
    for (const line of data.split('\n')) {
      const command = JSON.parse(line) as Command;
      this.commands.push(command);
      queueMicrotask(() => this.#answer(command));
    }
  }

  #answer({ id, connect, subscribe, unsubscribe }: Command): void {
    if (connect !== undefined) {
      if (this.connectError !== undefined) this.send({ id, error: this.connectError });
      else this.send({ id, connect: { client: 'client-1', version: '0', node: 'node-1' } });
    } else if (unsubscribe !== undefined) {
      this.send({ id, unsubscribe: {} });
    } else if (subscribe !== undefined) {
      this.#answerSubscribe(id, subscribe);
    }
  }

  #answerSubscribe(id: number | undefined, { channel, recover }: NonNullable<Command['subscribe']>): void {
    const topic: FakeTopic = this.topics.get(channel) ?? { error: { code: 102, message: 'unknown channel' } };
    if (topic.error !== undefined) {
      this.send({ id, error: topic.error });
      return;
    }
    const recovered = recover === true && topic.recovers !== false;
    const subscribe = {
      recoverable: true,
      positioned: true,
      epoch: topic.epoch,
      offset: topic.offset,
      was_recovering: recover === true,
      recovered,
      data: topic.class && { class: topic.class },
      publications: recovered ? topic.missed : undefined,
    };
    this.send({ id, subscribe });
    if (!recovered && topic.snapshot !== undefined) {
      const pub = { data: topic.snapshot, offset: topic.offset, tags: { kind: 'snapshot' } };
      this.send({ push: { channel, pub } });
    }
  }
}

export interface FakeSocket {
  onopen: (() => void) | null;
  onmessage: ((event: { data: string }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: unknown) => void) | null;
  lose(code: number, reason: string): void;
}

function makeSocketClass(server: FakeServer) {
  return class implements FakeSocket {
    onopen: FakeSocket['onopen'] = null;
    onmessage: FakeSocket['onmessage'] = null;
    onclose: FakeSocket['onclose'] = null;
    onerror: FakeSocket['onerror'] = null;
    #closed = false;

    constructor() {
      setTimeout(() => {
        if (server.down) {
          this.lose(1006, '');
          return;
        }
        server.opened(this);
        this.onopen?.();
      });
    }

    send(data: string): void {
      if (!this.#closed) server.received(data);
    }

    close(): void {
      setTimeout(() => this.lose(1000, ''));
    }

    lose(code: number, reason: string): void {
      if (this.#closed) return;
      this.#closed = true;
      this.onclose?.({ code, reason });
    }
  };
}
