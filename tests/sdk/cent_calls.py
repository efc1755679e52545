"""Calls the server's API with cent (PyPI), as a backend does; prints the answers as one line of JSON."""

import json
import sys

from cent import (
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)

url, key, topic = sys.argv[1:4]
client = Client(url, key)


def refused(call):
    try:
        call()
    except CentApiResponseError as error:
        return {"code": error.code, "message": error.message}
    return None


def wrong_key():
    try:
        Client(url, "wrong-key-0123456789x").publish(PublishRequest(channel=topic, data=1))
    except CentUnauthorizedError:
        return True
    return False


first = client.publish(
    PublishRequest(channel=topic, data={"n": 1}, skip_history=False, tags={}, b64data="", idempotency_key="first")
)
again = client.publish(PublishRequest(channel=topic, data={"n": 1}, idempotency_key="first"))
broadcast = client.broadcast(BroadcastRequest(channels=[topic, topic + "2", "no name"], data={"n": 2}))
history = client.history(HistoryRequest(channel=topic, limit=10, reverse=False))
batch = client.batch(
    BatchRequest(
        requests=[
            PublishRequest(channel=topic, data={"n": 3}),
            BroadcastRequest(channels=[topic], data={"n": 4}),
            PresenceStatsRequest(channel=topic),
        ],
        parallel=True,
    )
)
presence = client.presence(PresenceRequest(channel=topic))
answers = {
    "first": first.model_dump(),
    "again": again.model_dump(),
    "broadcast": broadcast.model_dump(),
    "history": history.model_dump(),
    "batch": [reply.model_dump() for reply in batch.replies],
    "presence": presence.model_dump(),
    "presence_stats": client.presence_stats(PresenceStatsRequest(channel=topic)).model_dump(),
    "channels": client.channels(ChannelsRequest(pattern="*")).model_dump(),
    "info": client.info(InfoRequest()).model_dump(),
    "refused": [
        refused(lambda: client.publish(PublishRequest(channel="no name", data=1))),
        refused(lambda: client.publish(PublishRequest(channel=topic, data=1, skip_history=True))),
        refused(lambda: client.presence(PresenceRequest(channel="none:1"))),
        refused(lambda: client.disconnect(DisconnectRequest(user="ann", disconnect=Disconnect(code=1)))),
    ],
    "wrong_key": wrong_key(),
}
client.subscribe(SubscribeRequest(user="ann", channel=topic + "2"))
client.unsubscribe(UnsubscribeRequest(user="ann", channel=topic, client="", session=""))
client.refresh(RefreshRequest(user="bob", expired=True))
client.history_remove(HistoryRemoveRequest(channel=topic))
answers["removed"] = client.history(HistoryRequest(channel=topic, limit=10)).model_dump()
print(json.dumps(answers))
