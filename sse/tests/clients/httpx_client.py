"""A resuming client in httpx-sse: prints {"open":true}, {"id":…} or {"gap":…} a line."""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse


def tell(**heard):
    print(json.dumps(heard), flush=True)


last = ""
with httpx.Client(timeout=None, trust_env=False) as client:
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with connect_sse(client, "GET", sys.argv[1], headers=headers) as source:
                tell(open=True)
                for event in source.iter_sse():
                    last = event.id or last
                    if event.event == "gap":
                        tell(gap=json.loads(event.data))
                    elif event.data:  # httpx-sse also hands out blocks without data
                        tell(id=event.id)
        except httpx.TransportError:
            pass  # cut: what was whole has been told
        time.sleep(0.1)
