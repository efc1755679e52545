// uWebSockets as a push server: native topics, one publish a delta. Speaks as much of `plain` as the harness needs.
import * as uwsModule from "uwebsockets";

const uWS = uwsModule.App ? uwsModule : uwsModule.default;
const port = Number(process.argv[2]);
const offsets = new Map();
const text = new TextDecoder();

const app = uWS.App();
app.ws("/ws", {
  compression: uWS.DISABLED,
  maxPayloadLength: 64 * 1024,
  maxBackpressure: 1024 * 1024,
  idleTimeout: 120,
  sendPingsAutomatically: true,
  message: (ws, bytes) => {
    const { id, args } = JSON.parse(text.decode(bytes));
    const topics = {};
    for (const topic of args) {
      ws.subscribe(topic);
      topics[topic] = { offset: offsets.get(topic) ?? 0, epoch: "uws", recovered: false };
    }
    ws.send(JSON.stringify({ id, op: "subscribe", ok: true, topics }));
  },
});
app.post("/api/batch", (response, _request) => {
  let body = "";
  response.onAborted(() => {});
  response.onData((chunk, last) => {
    body += text.decode(chunk);
    if (!last) return;
    const replies = [];
    for (const { publish } of JSON.parse(body).commands) {
      const topic = publish.channel;
      const prev = offsets.get(topic) ?? 0;
      const offset = prev + 1;
      offsets.set(topic, offset);
      app.publish(topic, `{"topic":"${topic}","type":"delta","offset":${offset},"prev":${prev},"data":${JSON.stringify(publish.data)}}`);
      replies.push({ publish: { offset } });
    }
    response.cork(() => response.end(JSON.stringify({ replies })));
  });
});
app.listen("127.0.0.1", port, (socket) => {
  if (!socket) process.exit(1);
});
