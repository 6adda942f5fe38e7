// A rolling restart of two servers behind nginx, without affinity, under 1,000 EventSources: none
// may end. The same is done to servers that answer 503 while they restart, as most do.

import http from "node:http";
import { EventSource } from "eventsource";
import {
  Listener, Server, allUpWith, check, checkAllHold, freePort, listen, pause, startNginx, until,
} from "./kit.js";

const CLIENTS = 1_000;

await ours();
await withUnavailable();
process.exit(0);

async function ours() {
  const args = ["--retry", "0.5", "--drain", "2"];
  let [one, two] = [await Server.start(args, await freePort()), await Server.start(args, await freePort())];
  const { url, nginx } = await balance(one.port, two.port);
  await Promise.all([one.publishMany("news", 10), two.publishMany("news", 10)]);

  const started = Date.now();
  const listeners = Array.from({ length: CLIENTS }, (_, index) => new Listener(`client ${index}`));
  const sources = listeners.map(({ tell }) => listen(EventSource, `${url}/topics/news?after=earliest`, tell));
  await allUpWith(listeners, one, two);
  for (const turn of [1, 2]) {
    // Published up to the signal: each message is delivered before its stream ends, or named.
    await Promise.all([one.publishMany("news", 10), two.publishMany("news", 10)]);
    const restarted = one.restart();
    await two.publishMany("news", 10);
    one = await restarted;
    await one.publish("news", `restart ${turn}`);
    await allUpWith(listeners, one, two);
    [one, two] = [two, one];
  }
  await Promise.all([one.publishMany("news", 10), two.publishMany("news", 10)]);
  await allUpWith(listeners, one, two);

  const sum = (figure) => listeners.reduce((total, listener) => total + figure(listener), 0);
  const dead = sources.filter(({ readyState }) => readyState === EventSource.CLOSED).length;
  console.log(
    `ours: ${CLIENTS} EventSources, ${dead} dead; ${sum(({ opens }) => opens)} connections, ` +
      `${sum(({ received }) => received)} messages, ${sum(({ gaps }) => gaps)} gaps that name ` +
      `${sum(({ named }) => named)}, in ${((Date.now() - started) / 1000).toFixed(1)} s`,
  );
  checkAllHold(listeners);
  check(dead === 0, "no EventSource dies in a rolling restart");
  check(sum(({ gaps }) => gaps) >= CLIENTS, "everyone moved at least once");
  sources.forEach((source) => source.close());
  await Promise.all([one.stop(), two.stop()]);
  nginx.end();
}

async function withUnavailable() {
  const [one, two] = [await unavailableServer(), await unavailableServer()];
  const { url } = await balance(one.port, two.port);
  const sources = Array.from({ length: CLIENTS }, () => new EventSource(url));
  const count = (state) => sources.filter(({ readyState }) => readyState === state).length;
  await until(() => count(EventSource.OPEN) === CLIENTS, () => `${CLIENTS} open`);
  for (const server of [one, two]) {
    await server.restart();
    await until(() => count(EventSource.CONNECTING) === 0, () => "all to be open or dead");
  }
  console.log(`503 while it restarts: ${CLIENTS} EventSources, ${count(EventSource.CLOSED)} dead`);
  check(count(EventSource.CLOSED) > 0, "the comparison shows what it is there for");
}

// nginx in front of two servers. Its default would take a server that refused one connection out
// of service for ten seconds. With both out of service it answers 502, which ends an EventSource.
async function balance(...ports) {
  const port = await freePort();
  const nginx = await startNginx(() => `
    upstream sse { ${ports.map((to) => `server 127.0.0.1:${to} max_fails=0;`).join(" ")} }
    server {
      listen 127.0.0.1:${port};
      location / {
        proxy_pass http://sse;
        proxy_set_header Host $http_host;
      }
    }`, [port]);
  return { url: `http://127.0.0.1:${port}`, nginx };
}

// Streams, and for its restart of a second ends them and answers 503.
async function unavailableServer() {
  const streams = new Set();
  let restarting = false;
  let refused = 0;
  const server = http.createServer((_, response) => {
    if (restarting) {
      refused += 1;
      return response.writeHead(503).end();
    }
    response.writeHead(200, { "Content-Type": "text/event-stream", "X-Accel-Buffering": "no" });
    response.write("retry: 500\n\n");
    streams.add(response);
    response.on("close", () => streams.delete(response));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const restart = async () => {
    restarting = true;
    refused = 0;
    streams.forEach((response) => response.end());
    await pause(1_000);
    await until(() => refused > 0, () => "a client to come while it restarts"); // on a slow machine
    restarting = false;
  };
  return { port: server.address().port, restart };
}
