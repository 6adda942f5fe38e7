// A message that comes alone is heard at once: it waits for no second one to fill a client's buffer.
// And heartbeats keep the stream of a client open that gives up after a short silence.

import { startListeners } from "./clients.js";
import { Firefox, Server, check, pause, until } from "./kit.js";

const ROUNDS = 3;
const LIMIT = 1_000; // ms
const SILENCE = 4_000; // ms; longer than the read timeouts in pull.py

const firefox = await Firefox.start();
const server = await Server.start(["--heartbeat", "1", "--allow-origin", firefox.origin]);
const listeners = await startListeners(`${server.url}/topics/news?after=earliest`, firefox);
await until(() => listeners.every(({ opens }) => opens === 1), () => "every client to connect");
for (let round = 1; round <= ROUNDS; round += 1) {
  await pause(SILENCE);
  await server.publish("news", `message ${round}`);
  const waiting = () => listeners.filter(({ received }) => received < round).map(({ name }) => name);
  await until(() => waiting().length === 0, () => `to hear message ${round}: ${waiting()}`, LIMIT);
}
for (const { name, opens } of listeners) check(opens === 1, `${name} stays connected, and does not connect ${opens} times`);
console.log(`${ROUNDS} lone messages, each heard within ${LIMIT} ms by ${listeners.map(({ name }) => name).join(", ")}`);
await server.stop();
process.exit(0);
