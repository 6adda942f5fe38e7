// Clients of other authors receive every id, although connections are cut anywhere and the server
// restarts: received = published - named in gaps, none twice, none out of order.

import { EventSource } from "eventsource";
import {
  FaultProxy, Listener, Server, allUpWith, check, checkAllHold, freePort, heads, listen,
  listenInPage, startChromium, startClient,
} from "./kit.js";

const IDS = 10_000;
const CUTS = 20;
const RESTARTS = 5;
const STEPS = CUTS + RESTARTS;

const args = ["--retain", "20000", "--retry", "0.1", "--drain", "1"];
let server = await Server.start(args, await freePort());
const proxy = await FaultProxy.start(server.port);
const url = `${proxy.url}/topics/ids?after=earliest`;

const curl = new Listener("curl");
startClient("./curl.sh", [url], curl.tell);
const httpx = new Listener("httpx-sse");
startClient(process.env.PYTHON, ["httpx_client.py", url], httpx.tell);
const rust = new Listener("eventsource-stream");
startClient(process.env.RUST_CLIENT, [url], rust.tell);
const npm = new Listener("eventsource");
listen(EventSource, url, npm.tell);
const browser = await startChromium();
const page = await browser.newPage();
await page.goto(`${proxy.url}/healthz`); // a page of the same origin, without a stream of its own
const chromium = new Listener("Chromium");
await listenInPage(page, url, chromium.tell);
const listeners = [curl, httpx, rust, npm, chromium];

for (let step = 1; step <= STEPS; step += 1) {
  const share = Math.floor((IDS * step) / STEPS) - Math.floor((IDS * (step - 1)) / STEPS);
  const before = Math.floor(share / 2);
  await server.publishMany("ids", before);
  await allUpWith(listeners, server);
  // The rest comes while clients are cut off; a server that stops takes with it what they missed.
  const restarts = step % (STEPS / RESTARTS) === 0;
  const after = restarts ? 1 : 50;
  await Promise.all([proxy.cut(), server.publishMany("ids", share - before - after)]);
  if (restarts) server = await server.restart();
  await server.publishMany("ids", after);
  await allUpWith(listeners, server);
}

checkAllHold(listeners);
const published = [...heads.values()].reduce((sum, head) => sum + head, 0);
check(published === IDS && heads.size === RESTARTS + 1, `${IDS} ids of ${RESTARTS + 1} epochs`);
for (const { name, opens, received, named, gaps } of listeners) {
  console.log(`${name}: ${opens} connections, ${received} received + ${named} named in ${gaps} gaps`);
  check(received + named === IDS, `${name}: received = published - named`);
  check(opens > STEPS, `${name} connected once, and again after each cut and each restart`);
  check(gaps >= RESTARTS, `${name} is told of each restart`);
}
await browser.close();
await server.stop();
process.exit(0);
