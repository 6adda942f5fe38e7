"""A WebSocket of another project, driven by lines of JSON: bridge.py CLASS.

Reads {"socket":N,"open":URL,"protocols":[…]}, {"socket":N,"send":TEXT} and {"socket":N,"close":true}. Prints
{"socket":N,"open":true}, {"socket":N,"text":TEXT} and {"socket":N,"closed":CODE or null}. Each client sends
pings, and gives up a server that does not answer them.
"""

import asyncio
import json
import sys
from functools import partial
from threading import Thread

import aiohttp
import websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect

PING, PONG = 1, 0.9  # seconds from ping to ping, and from a ping to its pong
LOST = (OSError, EOFError, InvalidHandshake, InvalidMessage, aiohttp.ClientError, asyncio.TimeoutError)


class Session:
    session = None  # until it is connected

    def close(self):
        if self.session:
            self.session.close()


class Websockets(Session):
    def run(self, url, protocols, tell):
        with connect(url, subprotocols=protocols, ping_interval=PING, ping_timeout=PONG) as self.session:
            tell(open=True)
            try:
                while True:
                    tell(text=self.session.recv())
            except ConnectionClosed as end:
                tell(closed=end.rcvd and end.rcvd.code)

    def send(self, text):
        self.session.send(text)


class Aiohttp(Session):
    def run(self, url, protocols, tell):
        self.schedule(self.listen(url, protocols, tell)).result()

    def schedule(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, LOOP)

    async def listen(self, url, protocols, tell):
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(url, protocols=protocols, heartbeat=PING) as self.session:
                tell(open=True)
                async for frame in self.session:
                    tell(text=frame.data)
        code = self.session.close_code
        tell(closed=None if code == 1006 else code)

    def send(self, text):
        self.schedule(self.session.send_str(text))

    def close(self):
        if self.session:
            self.schedule(self.session.close())


class WebsocketClient(Session):
    def run(self, url, protocols, tell):
        self.session = websocket.WebSocketApp(
            url,
            subprotocols=protocols,
            on_open=lambda _: tell(open=True),
            on_message=lambda _, text: tell(text=text),
            on_close=lambda _, code, reason: tell(closed=code),
        )
        self.session.run_forever(ping_interval=PING, ping_timeout=PONG)

    def send(self, text):
        self.session.send(text)


def run(session, command, tell):
    try:
        session.run(command["open"], command["protocols"], tell)
    except LOST:
        tell(closed=None)


def tell(socket, **heard):
    print(json.dumps({"socket": socket, **heard}) + "\n", end="", flush=True)  # one write, from any thread


LOOP = asyncio.new_event_loop()
Thread(target=LOOP.run_forever, daemon=True).start()
sessions = {}
for line in sys.stdin:
    command = json.loads(line)
    socket = command["socket"]
    if "open" in command:
        sessions[socket] = globals()[sys.argv[1]]()
        Thread(target=run, args=(sessions[socket], command, partial(tell, socket)), daemon=True).start()
    elif "send" in command:
        sessions[socket].send(command["send"])
    else:
        sessions[socket].close()
