// Clients of event streams that others wrote. Each listens to `url` and resumes by itself.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import { Listener, listen, startChromium, startClient } from "./kit.js";

const python = (name) => (url, tell) => startClient(process.env.PYTHON, ["pull.py", name, url], tell);

const PROGRAMS = {
  curl: (url, tell) => startClient("./curl.sh", [url], tell),
  "eventsource-stream": (url, tell) => startClient(process.env.RUST_CLIENT, [url], tell),
  "httpx-sse": python("httpx_sse"),
  "sseclient-py": python("sseclient"),
  requests: python("requests"),
  aiohttp: python("aiohttp"),
  eventsource: (url, tell) => listen(EventSource, url, tell),
  "eventsource-client": listenWithClient,
};

// These run in one page of Chromium, which has six connections to a host.
const IN_PAGE = {
  Chromium: (url, tell) => listen(EventSource, url, tell),
  // It resumes by `lastEventId=`.
  "event-source-polyfill": (url, tell) => listen(EventSourcePolyfill, url, tell),
  "fetch-event-source": listenWithFetch,
};

// Firefox's page is of another origin, and Chromium's of `url`'s.
export async function startListeners(url, firefox) {
  const names = [...Object.keys(PROGRAMS), "Firefox", ...Object.keys(IN_PAGE)];
  const listeners = names.map((name) => new Listener(name));
  const tells = Object.fromEntries(listeners.map(({ name, tell }) => [name, tell]));
  for (const [name, start] of Object.entries(PROGRAMS)) start(url, tells[name]);
  firefox.run(`(${listen})(EventSource, ${JSON.stringify(url)}, (heard) => told.push(heard))`, tells.Firefox);
  const browser = await startChromium();
  const page = await browser.newPage();
  await page.route("**/npm/**", serveModule);
  await page.goto(new URL("/healthz", url).href); // a page without a stream
  await page.addScriptTag({ url: "/npm/event-source-polyfill/src/eventsource.js" });
  await page.exposeFunction("tellAll", (batch) => batch.forEach(([name, heard]) => tells[name](heard)));
  await page.evaluate(`
    const listen = ${listen};
    const told = [];
    setInterval(() => told.length && tellAll(told.splice(0)), 20);
    const clients = { ${Object.entries(IN_PAGE).map(([name, start]) => `"${name}": ${start}`)} };
    for (const [name, start] of Object.entries(clients))
      start(${JSON.stringify(url)}, (heard) => told.push([name, heard]));
    undefined`);
  return listeners;
}

function listenWithClient(url, tell) {
  createEventSource({
    url,
    onConnect: () => tell({ open: true }),
    onMessage: ({ event, id, data }) => tell(event === "gap" ? { gap: JSON.parse(data) } : { id }),
  });
}

// What this client needs: `onclose`, because it treats the end of a 200 as final; a look at `data`,
// because it hands out blocks without any; and its own position, because the client's moves with the `id:`
// line, so that a block that is cut after that line would be lost.
async function listenWithFetch(url, tell) {
  const { fetchEventSource } = await import("/npm/@microsoft/fetch-event-source/lib/esm/index.js");
  let last;
  fetchEventSource(url, {
    openWhenHidden: true,
    fetch: (url, init) => fetch(url, { ...init, headers: last ? { "Last-Event-ID": last } : {} }),
    onopen: async ({ ok }) => tell({ open: ok }),
    onclose: () => {
      throw new Error("ended: connect again");
    },
    onmessage: ({ event, id, data }) => {
      last = id || last;
      if (event === "gap") tell({ gap: JSON.parse(data) });
      else if (data) tell({ id });
    },
  });
}

// The file of a package, for a page.
async function serveModule(route) {
  const [, name] = new URL(route.request().url()).pathname.split("/npm/");
  const file = path.extname(name) ? name : `${name}.js`;
  const body = await readFile(createRequire(import.meta.url).resolve(file), "utf8");
  await route.fulfill({ contentType: "text/javascript", body });
}
