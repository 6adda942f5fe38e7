// Clients of other authors get every id, or hear that it is gone: directly, and through nginx with its
// default configuration. FRONT says which. The last wait of an epoch ends by the drain, the others by
// news or their deadline.

import { check, freePort, startNginx } from "./kit.js";
import { everyId } from "./polling.js";

async function nginx(port) {
  const front = await freePort();
  const location = `location / { proxy_pass http://127.0.0.1:${port}; }`;
  await startNginx(() => `server { listen 127.0.0.1:${front}; ${location} }`, [front]);
  return front;
}

const pollers = await everyId({
  ids: 10_000,
  restarts: 20,
  retain: 100,
  args: [],
  query: "&limit=50&wait=5",
  pause: 5, // so that a client that is refused while the server restarts does not spin
  front: process.env.FRONT === "nginx" ? nginx : undefined,
});
check(pollers.some(({ gaps }) => gaps > 20), "somebody falls behind what is kept");
process.exit(0);
