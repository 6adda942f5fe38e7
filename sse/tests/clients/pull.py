"""Clients of event streams that resume: pull.py CLIENT URL. Prints {"open":true}, {"id":…} or {"gap":…}, one per line.

Each client gives a stream up that is silent for SILENCE: so heartbeats must reach it.
"""

import asyncio
import json
import sys
import time

import aiohttp
import httpx
import requests
import sseclient
from httpx_sse import connect_sse

SILENCE = 3  # seconds


def with_httpx_sse(url, headers):
    timeout = httpx.Timeout(SILENCE)
    with httpx.Client(timeout=timeout, trust_env=False) as client:
        with connect_sse(client, "GET", url, headers=headers) as source:
            tell(open=True)
            for event in source.iter_sse():
                if event.data:  # httpx-sse also hands out blocks without data
                    yield event.event, event.id, event.data


def with_sseclient(url, headers):
    with get(url, headers) as answer:
        for event in sseclient.SSEClient(answer).events():
            yield event.event, event.id, event.data


def with_requests(url, headers):
    with get(url, headers) as answer:
        yield from events(line.decode() for line in answer.iter_lines())


def with_aiohttp(url, headers):
    async def lines():
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(url, headers=headers) as answer:
                tell(open=True)
                async for line in answer.content:
                    yield line.decode().rstrip("\n")

    with asyncio.Runner() as runner:
        yield from events(all_of(runner, lines()))


def get(url, headers):
    session = requests.Session()
    session.trust_env = False
    answer = session.get(url, headers=headers, stream=True, timeout=SILENCE)
    tell(open=True)
    return answer


def all_of(runner, lines):
    while (line := runner.run(anext(lines, None))) is not None:
        yield line


def events(lines):
    """What most people write by hand: fields until an empty line."""
    fields = {}
    for line in lines:
        if line:
            name, _, fields[name] = line.partition(": ")
        else:
            if "data" in fields:
                yield fields.get("event"), fields.get("id"), fields["data"]
            fields = {}


def tell(**heard):
    print(json.dumps(heard), flush=True)


LOST = (httpx.TransportError, requests.RequestException, aiohttp.ClientError, TimeoutError)
client, last = globals()[f"with_{sys.argv[1]}"], ""
while True:
    try:
        for event, id, data in client(sys.argv[2], {"Last-Event-ID": last} if last else {}):
            body = json.loads(data)  # fails on half an event
            last = id or last
            tell(gap=body) if event == "gap" else tell(id=body["id"])
    except LOST:
        pass  # what was whole has been told
    time.sleep(0.1)
