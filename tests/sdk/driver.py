"""Drives the published Python SDK: commands from standard input, events to standard output, one JSON object per line.

The server's tests (tests/it/protocol/sdks.rs) send the commands and check the events.
"""

import asyncio
import base64
import json
import sys

from centrifuge import Client, ClientEventHandler, DeltaType, StreamPosition, SubscriptionEventHandler


def say(**event):
    print(json.dumps(event), flush=True)


def failure(error):
    return {"code": getattr(error, "code", 0), "message": str(error)}


def position(at):
    return {"offset": at.offset, "epoch": at.epoch} if at else None


class Driver:
    def __init__(self):
        self.client = None
        self.protobuf = False
        # Payloads are any bytes: commands and events have them in base64.
        self.raw = False
        self.subscriptions = {}
        self.tokens = asyncio.Queue()

    def read(self, data):
        # This SDK has no empty bytes: they are absent.
        if data is None and self.raw:
            return ""
        if not isinstance(data, (bytes, bytearray)):
            return data
        return base64.b64encode(data).decode() if self.raw else json.loads(data)

    def write(self, value):
        if not self.protobuf:
            return value
        return base64.b64decode(value) if self.raw else json.dumps(value).encode()

    def publication(self, topic, pub):
        return {"topic": topic, "data": self.read(pub.data), "offset": pub.offset, "tags": dict(pub.tags or {})}

    def member(self, info):
        shown = self.read(info.conn_info) if info.conn_info else None
        return {"user": info.user, "client": info.client, "conn_info": shown}

    async def token(self, topic):
        say(event="token wanted", topic=topic)
        return await self.tokens.get()

    async def connect(self, url, token="", tokens=False, protocol="json", bytes=False, **_):
        self.protobuf = protocol == "protobuf"
        self.raw = bytes
        driver = self

        class Events(ClientEventHandler):
            async def on_connected(self, ctx):
                say(event="connected", client=ctx.client)

            async def on_connecting(self, ctx):
                say(event="connecting", code=ctx.code, reason=ctx.reason)

            async def on_disconnected(self, ctx):
                say(event="disconnected", code=ctx.code, reason=ctx.reason)

            async def on_error(self, ctx):
                say(event="error", error=failure(ctx.error))

            async def on_subscribed(self, ctx):
                say(event="server subscribed", topic=ctx.channel, recovered=ctx.recovered)

            async def on_publication(self, ctx):
                say(event="server publication", **driver.publication(ctx.channel, ctx.pub))

        async def get_token():
            return await driver.token(None)

        self.client = Client(
            url,
            events=Events(),
            token=token,
            get_token=get_token if tokens else None,
            use_protobuf=self.protobuf,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.3,
            proxy=None,
        )
        await self.client.connect()

    async def subscribe(self, topic, token="", tokens=False, fossil=False, join_leave=False, data=None, **_):
        driver = self

        class Events(SubscriptionEventHandler):
            async def on_subscribed(self, ctx):
                say(
                    event="subscribed",
                    topic=topic,
                    was_recovering=ctx.was_recovering,
                    recovered=ctx.recovered,
                    recoverable=ctx.recoverable,
                    position=position(ctx.stream_position),
                    data=driver.read(ctx.data) if ctx.data else None,
                )

            async def on_publication(self, ctx):
                say(event="publication", **driver.publication(topic, ctx.pub))

            async def on_join(self, ctx):
                say(event="join", topic=topic, info=driver.member(ctx.info))

            async def on_leave(self, ctx):
                say(event="leave", topic=topic, info=driver.member(ctx.info))

            async def on_error(self, ctx):
                say(event="subscription error", topic=topic, error=failure(ctx.error))

            async def on_subscribing(self, ctx):
                say(event="subscribing", topic=topic, code=ctx.code)

            async def on_unsubscribed(self, ctx):
                say(event="unsubscribed", topic=topic, code=ctx.code, reason=ctx.reason)

        async def get_token(channel):
            return await driver.token(channel)

        self.subscriptions[topic] = self.client.new_subscription(
            topic,
            events=Events(),
            token=token,
            get_token=get_token if tokens else None,
            data=self.write(data) if data else None,
            min_resubscribe_delay=0.05,
            join_leave=join_leave,
            delta=DeltaType.FOSSIL if fossil else None,
        )
        await self.subscriptions[topic].subscribe()

    async def unsubscribe(self, topic, **_):
        subscription = self.subscriptions.pop(topic)
        await subscription.unsubscribe()
        self.client.remove_subscription(subscription)

    async def disconnect(self, **_):
        await self.client.disconnect()

    async def call(self, do, topic=None, data=None, limit=0, since=None, reverse=False, method="", **_):
        if do == "publish":
            await self.client.publish(topic, self.write(data))
            return {}
        if do == "history":
            at = StreamPosition(offset=since["offset"], epoch=since["epoch"]) if since else None
            page = await self.client.history(topic, limit=limit, since=at, reverse=reverse)
            publications = [self.publication(topic, pub) for pub in page.publications]
            return {"publications": publications, "offset": page.offset, "epoch": page.epoch}
        if do == "presence":
            result = await self.client.presence(topic)
            return {client: self.member(info) for client, info in result.clients.items()}
        if do == "presence_stats":
            result = await self.client.presence_stats(topic)
            return {"numClients": result.num_clients, "numUsers": result.num_users}
        if do == "rpc":
            return self.read((await self.client.rpc(method, self.write(data))).data)
        raise ValueError(do)

    async def carry_out(self, command):
        do = command["do"]
        if do == "token":
            self.tokens.put_nowait(command["token"])
        elif do in ("connect", "subscribe", "unsubscribe", "disconnect"):
            await getattr(self, do)(**command)
        else:
            try:
                say(event=do, result=await self.call(**command))
            except Exception as error:  # noqa: BLE001: whatever it is, the test is told
                say(event=do, error=failure(error))


async def main():
    driver = Driver()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    say(event="ready")
    under_way = set()
    while line := await lines.readline():
        task = asyncio.create_task(driver.carry_out(json.loads(line)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


asyncio.run(main())
