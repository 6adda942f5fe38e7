// Clients of other projects get every id, or hear that it is gone: directly, through nginx
// with its default configuration, and through nginx that compresses. FRONT says which.

import { check, freePort, startNginx } from "./kit.js";
import { everyId } from "./polling.js";

const COMPRESSES = "gzip on; gzip_types application/json; gzip_min_length 0; gzip_proxied any;";
const fronts = {
  none: undefined,
  nginx: (port) => nginx(port, ""),
  gzip: (port) => nginx(port, COMPRESSES),
};

async function nginx(port, configured) {
  const front = await freePort();
  const location = `location / { proxy_pass http://127.0.0.1:${port}; }`;
  await startNginx(() => `server { listen 127.0.0.1:${front}; ${configured} ${location} }`, [front]);
  if (configured) await isCompressed(front);
  return front;
}

// The ETag comes through a page that was compressed on the way, and is known again.
async function isCompressed(port) {
  const url = `http://127.0.0.1:${port}/topics/other`;
  const headers = { "Accept-Encoding": "gzip" };
  const page = await fetch(url, { headers });
  const etag = page.headers.get("ETag");
  check(page.headers.get("Content-Encoding") === "gzip", "nginx compresses a page");
  check(/^W\/"/.test(etag), `a compressed page keeps its weak ETag: ${etag}`);
  const again = await fetch(url, { headers: { ...headers, "If-None-Match": etag } });
  check(again.status === 304, `a compressed page is known by its ETag, not ${again.status}`);
}

const pollers = await everyId({
  ids: 10_000,
  restarts: 20,
  retain: 100,
  args: [],
  query: "&limit=50",
  pause: 20,
  front: fronts[process.env.FRONT ?? "none"],
});
for (const { name, notModified } of pollers) check(notModified > 0, `${name} is spared a page by its ETag`);
check(pollers.some(({ gaps }) => gaps > 20), "somebody falls behind what is kept");
process.exit(0);
