// A rolling restart of two servers behind nginx, without affinity, with 1,000 WebSockets. Each client is
// told to reconnect, reconnects, and receives every message or the gap that names it.

import { WebSocket } from "ws";
import { follow } from "./follow.js";
import { Listener, Server, allUpWith, check, checkAllHold, freePort, startNginx } from "./kit.js";

const CLIENTS = 1_000;

const args = ["--drain", "2"];
let [one, two] = [await Server.start(args, await freePort()), await Server.start(args, await freePort())];
const { url, nginx } = await balance(one.port, two.port);
await Promise.all([one.publishMany("news", 10), two.publishMany("news", 10)]);

const started = Date.now();
const codes = {};
const listeners = Array.from({ length: CLIENTS }, (_, index) => new Listener(`client ${index}`));
for (const { tell } of listeners) {
  follow(WebSocket, `${url}/topics/news`, (heard) => {
    if (heard.closed) codes[heard.closed] = (codes[heard.closed] ?? 0) + 1;
    tell(heard);
  });
}
await allUpWith(listeners, one, two);
for (const turn of [1, 2]) {
  // Published until the signal: each message is delivered before its session ends, or named in a gap.
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
console.log(
  `${CLIENTS} WebSockets: ${sum(({ opens }) => opens)} connections, ${sum(({ received }) => received)} messages, ` +
    `${sum(({ gaps }) => gaps)} gaps that name ${sum(({ named }) => named)}, ` +
    `closed ${JSON.stringify(codes)}, in ${((Date.now() - started) / 1000).toFixed(1)} s`,
);
checkAllHold(listeners);
check(sum(({ gaps }) => gaps) >= CLIENTS, "everyone moved at least once");
check(codes[1012] >= CLIENTS, "everyone is told by 1012");
// 1006: the client came while both servers were down, and nginx answered 502.
check(Object.keys(codes).every((code) => ["1012", "1006"].includes(code)), "no other end");
nginx.end();
process.exit(0);

async function balance(...ports) {
  const port = await freePort();
  const nginx = await startNginx(() => `
    upstream websockets { ${ports.map((to) => `server 127.0.0.1:${to} max_fails=0;`).join(" ")} }
    server {
      listen 127.0.0.1:${port};
      location / {
        proxy_pass http://websockets;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
        proxy_set_header Host $http_host;
      }
    }`, [port]);
  return { url: `ws://127.0.0.1:${port}`, nginx };
}
