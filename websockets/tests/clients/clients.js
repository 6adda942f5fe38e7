// WebSockets that others wrote, all with the interface of the browser's.

import { WebSocket as undici } from "undici";
import { WebSocket as ws } from "ws";
import { startChromium, startClient } from "./kit.js";

const python = (name) => bridged(process.env.PYTHON, ["bridge.py", name]);

// Starts `client(WebSocket, url, tell)` on each of them, and returns their names. `told(name)` is where it
// tells. In the browsers it runs in a page, so it may use nothing but its parameters.
export async function startOnEach(client, url, firefox, told) {
  const programs = {
    "Node's WebSocket": WebSocket,
    undici,
    ws,
    websockets: python("Websockets"),
    aiohttp: python("Aiohttp"),
    "websocket-client": python("WebsocketClient"),
    "Go's gorilla": bridged(process.env.GO_CLIENT, []),
  };
  const socket = url.replace("http", "ws");
  for (const [name, constructor] of Object.entries(programs)) client(constructor, socket, told(name));
  const script = `(${client})(WebSocket, ${JSON.stringify(socket)}, (heard) => told.push(heard))`;
  firefox.run(script, told("Firefox"));
  await inChromium(new URL("/healthz", url).href, script, told("Chromium")); // a page of the same origin
  return [...Object.keys(programs), "Firefox", "Chromium"];
}

async function inChromium(page, script, tell) {
  const tab = await (await startChromium()).newPage();
  await tab.goto(page);
  await tab.exposeFunction("tellAll", (batch) => batch.forEach(tell));
  await tab.evaluate(`
    const told = [];
    setInterval(() => told.length && tellAll(told.splice(0)), 20);
    ${script};
    undefined`);
}

// A WebSocket in another program, which reads commands and prints what it hears, one JSON object per line.
function bridged(program, args) {
  const sockets = [];
  const child = startClient(program, args, ({ socket, ...heard }) => sockets[socket].hear(heard));
  const write = (command) => child.stdin.write(`${JSON.stringify(command)}\n`);
  return class {
    constructor(url, protocols) {
      this.socket = sockets.push(this) - 1;
      write({ socket: this.socket, open: url, protocols: [protocols].flat() });
    }

    send(text) {
      write({ socket: this.socket, send: text });
    }

    close() {
      write({ socket: this.socket, close: true });
    }

    hear({ open, text, closed }) {
      if (open) this.onopen?.();
      if (text !== undefined) this.onmessage?.({ data: text });
      // Without a code the connection was lost.
      if (closed !== undefined) this.onclose?.({ code: closed ?? 1006, wasClean: closed !== null });
    }
  };
}
