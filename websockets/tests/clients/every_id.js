// Clients of other authors receive every id, although connections are cut anywhere and the server
// restarts: received = published - named in gaps, none twice, none out of order.

import { startOnEach } from "./clients.js";
import { follow } from "./follow.js";
import { FaultProxy, Firefox, Listener, Server, allUpWith, check, checkAllHold, freePort, heads } from "./kit.js";

const IDS = 10_000;
const CUTS = 20;
const RESTARTS = 5;
const STEPS = CUTS + RESTARTS;

const firefox = await Firefox.start();
const args = ["--retain", "20000", "--drain", "1", "--max-age", "10", "--allow-origin", firefox.origin];
let server = await Server.start(args, await freePort());
const proxy = await FaultProxy.start(server.port);
const listeners = [];
await startOnEach(follow, `${proxy.url}/topics/ids`, firefox, (name) => {
  const listener = new Listener(name);
  listeners.push(listener);
  return listener.tell;
});

for (let step = 1; step <= STEPS; step += 1) {
  const share = Math.floor((IDS * step) / STEPS) - Math.floor((IDS * (step - 1)) / STEPS);
  const before = Math.floor(share / 2);
  await server.publishMany("ids", before);
  await allUpWith(listeners, server);
  // The rest is published while clients are cut off. A server that stops loses what they missed.
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
await server.stop();
process.exit(0);
