// The design that is replaced: one Node process, a set of sockets a topic, every message serialized once a client.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const port = Number(process.argv[2]);
const offsets = new Map();
const subscribers = new Map();

const server = createServer((request, response) => {
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk) => {
    body += chunk;
  });
  request.on("end", () => {
    const replies = [];
    for (const { publish } of JSON.parse(body).commands) {
      const topic = publish.channel;
      const prev = offsets.get(topic) ?? 0;
      const offset = prev + 1;
      offsets.set(topic, offset);
      const message = { topic, type: "delta", offset, prev, data: publish.data };
      for (const socket of subscribers.get(topic) ?? []) socket.send(JSON.stringify(message));
      replies.push({ publish: { offset } });
    }
    response.end(JSON.stringify({ replies }));
  });
});
const sockets = new WebSocketServer({ server, path: "/ws", perMessageDeflate: false, maxPayload: 64 * 1024 });
sockets.on("connection", (socket) => {
  const mine = [];
  socket.on("error", () => {});
  socket.on("message", (bytes) => {
    const { id, args } = JSON.parse(bytes);
    const topics = {};
    for (const topic of args) {
      if (!subscribers.has(topic)) subscribers.set(topic, new Set());
      subscribers.get(topic).add(socket);
      mine.push(topic);
      topics[topic] = { offset: offsets.get(topic) ?? 0, epoch: "ws", recovered: false };
    }
    socket.send(JSON.stringify({ id, op: "subscribe", ok: true, topics }));
  });
  socket.on("close", () => {
    for (const topic of mine) subscribers.get(topic)?.delete(socket);
  });
});
server.listen({ port, host: "127.0.0.1", backlog: 4096 });
