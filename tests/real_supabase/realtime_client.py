"""The Python client `realtime` joins a channel, tells when it is ready, waits for a row, and leaves."""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

settings = json.loads(sys.argv[1])


def say(what):
    print(json.dumps(what), flush=True)


async def main():
    client = AsyncRealtimeClient(settings["url"].replace("http", "ws") + "/realtime/v1", settings["key"])
    await client.connect()
    await client.set_auth(settings["token"])
    row = asyncio.get_running_loop().create_future()

    def subscribed(status, error):
        if status != RealtimeSubscribeStates.SUBSCRIBED and status != RealtimeSubscribeStates.CLOSED:
            row.set_exception(RuntimeError(f"{status} {error}"))

    def changed(change):
        row.done() or row.set_result(change)

    channel = client.channel("judge")
    channel.on_system(lambda payload: say("ready"))
    channel.on_postgres_changes(
        "INSERT", schema="public", table="commands", filter="gateway_id=eq.gw", callback=changed
    )
    await channel.subscribe(subscribed)
    change = await asyncio.wait_for(row, 60)
    say({"row": change["data"]["record"], "type": change["data"]["type"], "errors": change["data"]["errors"]})
    await client.set_auth(settings["renewed"])
    await channel.unsubscribe()
    await client.close()
    say({"left": "ok"})


asyncio.run(main())
