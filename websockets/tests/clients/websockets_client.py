"""Follows a subscription with Python's websockets, and prints a line of JSON for each thing it hears."""

import json
import sys
import time

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect

url, after = sys.argv[1], "earliest"


def tell(heard):
    print(json.dumps(heard), flush=True)


while True:
    try:
        with connect(f"{url}?after={after}", subprotocols=["feed.v1.json"]) as session:
            tell({"open": True})
            for frame in session:
                ((name, body),) = json.loads(frame).items()
                if name == "message":
                    after = body["id"]
                    tell({"id": after})
                elif name == "gap":
                    tell({"gap": body})
                elif name == "heartbeat":
                    after = body["next"]
    except (OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage):
        pass
    time.sleep(0.1)
