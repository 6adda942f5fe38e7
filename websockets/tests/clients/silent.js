// npm's ws with `autoPong: false` is connected but answers no ping. The server gives it up at the deadline,
// and keeps a client that answers.

import { WebSocket } from "ws";
import { Server, check, until } from "./kit.js";

const PING = 1; // seconds; half of it more to answer

const server = await Server.start(["--ping", `${PING}`]);
const url = `${server.url.replace("http", "ws")}/topics/news`;
const answers = new WebSocket(url);
let pings = 0;
answers.on("ping", () => (pings += 1));

const silent = new WebSocket(url, { autoPong: false });
let opened, closed;
silent.on("open", () => (opened = Date.now()));
silent.on("close", (code, reason) => (closed = { code, reason: `${reason}`, after: Date.now() - opened }));
await until(() => closed && pings >= 3, () => `the silent one to be closed (${closed}), 3 pings (${pings})`);

const { code, reason, after } = closed;
console.log(`without pongs: closed with ${code} (${reason}) after ${after} ms; with pongs: open after ${pings} pings`);
check(code === 1008, `1008, not ${code}`);
check(after >= PING * 1_450 && after < PING * 5_000, `after a ping and its deadline, not ${after} ms`);
check(answers.readyState === WebSocket.OPEN, "one that answers stays");
answers.close();
await server.stop();
process.exit(0);
