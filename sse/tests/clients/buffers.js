// nginx in front with its default configuration holds no event back: `X-Accel-Buffering: no` turns
// its buffer off, and nothing else is configured.

import { EventSource } from "eventsource";
import { Server, check, freePort, median, pause, startNginx, until } from "./kit.js";

const EVENTS = 200;
const LIMIT = 200; // ms; what a buffer holds back comes with the next events, or never

const server = await Server.start();
const [port, deaf] = [await freePort(), await freePort()];
const listening = (port, more) =>
  `server { listen 127.0.0.1:${port}; ${more} location / { proxy_pass ${server.url}; } }`;
await startNginx(
  () => listening(port, "") + listening(deaf, "proxy_ignore_headers X-Accel-Buffering;"),
  [port, deaf],
);

const direct = await latency(server.url);
const proxied = await latency(`http://127.0.0.1:${port}`);
check(proxied < LIMIT, `an event comes through nginx within ${LIMIT} ms`);
console.log(`median from publish to onmessage: ${direct.toFixed(1)} ms direct, ${proxied.toFixed(1)} ms by nginx`);
console.log(`nginx that ignores the field, after a second: ${await heardInASecond(deaf)} of 1 event`);
await server.stop();
process.exit(0);

async function latency(url) {
  const source = new EventSource(`${url}/topics/quotes`);
  await until(() => source.readyState === EventSource.OPEN, () => `${url} to open`);
  const times = [];
  for (let event = 0; event < EVENTS; event += 1) {
    const heard = new Promise((resolve) => (source.onmessage = resolve));
    const started = performance.now();
    await server.publish("quotes", `quote ${event}`);
    await heard;
    times.push(performance.now() - started);
  }
  source.close();
  return median(times);
}

// What the field is for: without it an event waits until a buffer is full.
async function heardInASecond(port) {
  await server.publish("news", "one event");
  const source = new EventSource(`http://127.0.0.1:${port}/topics/news?after=earliest`);
  let heard = 0;
  source.onmessage = () => (heard += 1);
  await pause(1_000);
  source.close();
  return heard;
}
