// Drives the published JavaScript SDK: commands from standard input, events to standard output, one JSON object per
// line. The server's tests (tests/it/protocol/sdks.rs) send the commands and check the events.
import { createInterface } from 'node:readline';
import { Centrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const failure = (error) => ({ code: error.code, message: error.message });

let client;
let protobuf = false;
/** Payloads are any bytes: commands and events have them in base64. */
let raw = false;
const waitingForToken = [];

/** Payloads are bytes in Protobuf, JSON in both. */
const decoded = (data) =>
  raw ? Buffer.from(data).toString('base64') : JSON.parse(new TextDecoder().decode(data));
const read = (data) => (data instanceof Uint8Array ? decoded(data) : data);
const encoded = (value) =>
  raw ? Buffer.from(value, 'base64') : new TextEncoder().encode(JSON.stringify(value));
const write = (value) => (protobuf ? encoded(value) : value);
const publication = (topic, ctx) => ({
  topic,
  data: read(ctx.data),
  offset: ctx.offset,
  tags: ctx.tags ?? {},
});
const member = (info) => ({
  user: info.user,
  client: info.client,
  conn_info: info.connInfo && read(info.connInfo),
});

function askForToken(topic) {
  say({ event: 'token wanted', topic });
  return new Promise((resolve) => waitingForToken.push(resolve));
}

function connect({ url, token, tokens, protocol, bytes }) {
  raw = bytes === true;
  protobuf = protocol === 'protobuf';
  const options = { websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 300, token };
  if (tokens) options.getToken = () => askForToken(undefined);
  if (protobuf) options.protocol = 'protobuf';
  client = protobuf ? new ProtobufCentrifuge(url, options) : new Centrifuge(url, options);
  client.on('connected', (ctx) => say({ event: 'connected', client: ctx.client }));
  client.on('connecting', (ctx) => say({ event: 'connecting', code: ctx.code, reason: ctx.reason }));
  client.on('disconnected', (ctx) => say({ event: 'disconnected', code: ctx.code, reason: ctx.reason }));
  client.on('error', (ctx) => say({ event: 'error', error: failure(ctx.error) }));
  client.on('message', (ctx) => say({ event: 'message', data: read(ctx.data) }));
  client.on('subscribed', (ctx) =>
    say({ event: 'server subscribed', topic: ctx.channel, recovered: ctx.recovered }),
  );
  client.on('publication', (ctx) => say({ event: 'server publication', ...publication(ctx.channel, ctx) }));
  client.connect();
}

function subscribe({ topic, token, tokens, since, fossil, join_leave, data }) {
  const options = { token, since, joinLeave: join_leave, data: data && write(data), minResubscribeDelay: 50 };
  if (fossil) options.delta = 'fossil';
  if (tokens) options.getToken = () => askForToken(topic);
  const subscription = client.newSubscription(topic, options);
  subscription.on('subscribed', (ctx) =>
    say({
      event: 'subscribed',
      topic,
      was_recovering: ctx.wasRecovering,
      recovered: ctx.recovered,
      recoverable: ctx.recoverable,
      position: ctx.streamPosition,
      data: ctx.data && read(ctx.data),
    }),
  );
  subscription.on('publication', (ctx) => say({ event: 'publication', ...publication(topic, ctx) }));
  subscription.on('join', (ctx) => say({ event: 'join', topic, info: member(ctx.info) }));
  subscription.on('leave', (ctx) => say({ event: 'leave', topic, info: member(ctx.info) }));
  subscription.on('error', (ctx) => say({ event: 'subscription error', topic, error: failure(ctx.error) }));
  subscription.on('subscribing', (ctx) => say({ event: 'subscribing', topic, code: ctx.code }));
  subscription.on('unsubscribed', (ctx) =>
    say({ event: 'unsubscribed', topic, code: ctx.code, reason: ctx.reason }),
  );
  subscription.subscribe();
}

const calls = {
  publish: ({ topic, data }) => client.publish(topic, write(data)),
  history: async ({ topic, limit, since, reverse }) => {
    const page = await client.history(topic, { limit, since, reverse });
    return { ...page, publications: page.publications.map((ctx) => publication(topic, ctx)) };
  },
  presence: async ({ topic }) => {
    const { clients } = await client.presence(topic);
    return Object.fromEntries(Object.entries(clients).map(([id, info]) => [id, member(info)]));
  },
  presence_stats: ({ topic }) => client.presenceStats(topic),
  rpc: async ({ method, data }) => read((await client.rpc(method, write(data))).data),
};

const commands = {
  connect,
  subscribe,
  unsubscribe: ({ topic }) => {
    const subscription = client.getSubscription(topic);
    subscription.unsubscribe();
    client.removeSubscription(subscription);
  },
  delta_stats: ({ topic }) =>
    say({ event: 'delta_stats', result: client.getSubscription(topic).deltaStats() }),
  token: ({ token }) => waitingForToken.shift()(token),
  disconnect: () => client.disconnect(),
};

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const command = JSON.parse(line);
    if (commands[command.do]) {
      commands[command.do](command);
      return;
    }
    try {
      say({ event: command.do, result: (await calls[command.do](command)) ?? {} });
    } catch (error) {
      say({ event: command.do, error: failure(error) });
    }
  })
  .on('close', () => process.exit(0));
say({ event: 'ready' });
