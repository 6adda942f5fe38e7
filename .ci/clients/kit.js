// What the checks with real clients share: the server under test, nginx, a proxy that cuts connections,
// and the rule of delivery. It is copied beside a member's checks before they run.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { text } from "node:stream/consumers";
import { chromium } from "playwright-core";

// How long a check waits for anything before it fails.
const PATIENCE = 30_000;

// Waits until `holds()` is true.
export async function until(holds, what, patience = PATIENCE) {
  for (const deadline = Date.now() + patience; !(await holds()); await pause(5)) {
    if (Date.now() > deadline) throw new Error(`not within ${patience / 1000} s: ${what()}`);
  }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export function check(holds, claim) {
  if (!holds) throw new Error(`does not hold: ${claim}`);
}

// A free port outside the range of outgoing connections: so no connection takes the port while its
// server restarts.
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const probe = net.createServer();
    const free = await new Promise((resolve) => {
      probe.once("error", () => resolve(false));
      probe.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => probe.close(resolve));
    return port;
  }
}

// Every program that was started ends with this process.
const endings = new Set();
const log = []; // what the programs wrote to stderr, printed if the check fails
process.on("exit", (status) => {
  [...endings].reverse().forEach((end) => end()); // what came last may use what came first
  if (status !== 0) process.stderr.write(log.join(""));
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

export function start(program, args, { signal = "SIGKILL", ...options } = {}) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
  child.stderr.on("data", (text) => log.push(text));
  const target = options.detached ? -child.pid : child.pid;
  const end = () => process.kill(target, signal);
  endings.add(end);
  const exited = new Promise((resolve) => child.once("exit", resolve));
  exited.then(() => endings.delete(end));
  return { child, exited, end };
}

// A folder that is deleted at the end.
export function temporaryFolder(name) {
  const folder = mkdtempSync(path.join(tmpdir(), `${name}-`));
  // Again, because a program that was killed may still write.
  endings.add(() => rmSync(folder, { recursive: true, force: true, maxRetries: 20 }));
  return folder;
}

// Runs a client that prints a line of JSON for each event.
export function startClient(program, args, tell) {
  const options = { detached: true, stdio: "pipe" }; // a process group, because curl.sh starts curl
  const { child } = start(program, args, options);
  readline.createInterface({ input: child.stdout }).on("line", (line) => tell(JSON.parse(line)));
  return child;
}

// The last sequence number of each epoch. A server that restarts begins a new epoch.
export const heads = new Map();

// One process of the server under test.
export class Server {
  static async start(args = [], port = 0, program = process.env.SERVER) {
    const server = new Server();
    Object.assign(server, { args, program });
    const listen = ["--listen", `127.0.0.1:${port}`];
    Object.assign(server, start(program, [...listen, ...args]));
    const lines = readline.createInterface({ input: server.child.stdout });
    const [, url] = (await new Promise((resolve) => lines.once("line", resolve))).match(/(http:.*)/);
    server.url = url;
    server.port = Number(new URL(url).port);
    return server;
  }

  async publish(topic, text, type = "message") {
    const url = `${this.url}/topics/${topic}?type=${type}`;
    const answer = await fetch(url, { method: "POST", body: text });
    check(answer.status === 201, `a publish is answered 201, not ${answer.status}`);
    const { epoch, sequence } = cursor((await answer.json()).id);
    this.epoch = epoch;
    heads.set(epoch, Math.max(sequence, heads.get(epoch) ?? 0));
  }

  // Publishes `count` messages over a few connections.
  async publishMany(topic, count) {
    let left = count;
    const publisher = async () => {
      while (left-- > 0) await this.publish(topic, `message ${left}`);
    };
    await Promise.all(Array.from({ length: 8 }, publisher));
  }

  // Stops the server and starts it again on the same port.
  async restart() {
    await this.stop();
    return Server.start(this.args, this.port, this.program);
  }

  // Stops the process with SIGTERM, as an operator does.
  async stop() {
    this.child.kill("SIGTERM");
    const status = await this.exited;
    check(status === 0, `the server exits with 0, not ${status}`);
  }
}

export function cursor(text) {
  const [, epoch, sequence] = text.match(/^(.*)-(\d+)$/);
  return { epoch, sequence: Number(sequence) };
}

// Checks what one client received. Each id must follow the one before it. Only a gap may jump, from the
// client's own position to another epoch. So no message is lost silently, repeated or out of order.
export class Listener {
  opens = 0;
  received = 0;
  gaps = 0;
  jumps = [];
  broken = [];
  at = undefined; // the position after the last message or gap
  holds = []; // the ids from which the client may resume

  constructor(name) {
    this.name = name;
  }

  tell = ({ open, id, gap }) => {
    if (open) this.opens += 1;
    if (id) this.message(id);
    if (gap) this.gap(gap);
  };

  message(id) {
    const { epoch, sequence } = cursor(id);
    const { at } = this;
    // It asked for the earliest message, and nothing was trimmed: so that is the first one.
    const follows = at ? epoch === at.epoch && sequence === at.sequence + 1 : sequence === 1;
    if (!follows) this.broken.push(`${id} came after ${JSON.stringify(at)}`);
    this.received += 1;
    this.at = { epoch, sequence };
    this.holds = [id];
  }

  gap({ reason, requested, resumed }) {
    const to = cursor(resumed);
    if (reason !== "foreign") this.broken.push(`a gap is ${reason}`);
    if (!this.holds.includes(requested)) this.broken.push(`a gap from ${requested} at ${this.holds}`);
    if (this.jumps.some(({ from }) => from.epoch === to.epoch)) this.broken.push(`${resumed} again`);
    this.gaps += 1;
    // A client that is cut off before the next message receives the same gap again.
    if (this.at.epoch !== to.epoch) this.jumps.push({ from: this.at, to });
    this.at = to;
    this.holds.push(resumed);
  }

  // How many messages the gaps stand for: the rest of each epoch that the client left.
  get named() {
    return this.jumps.reduce(
      (sum, { from, to }) => sum + heads.get(from.epoch) - from.sequence + to.sequence,
      0,
    );
  }

  // Whether it has the newest message of any of these servers.
  isUpWith(...servers) {
    const { at } = this;
    return servers.some((server) => at?.epoch === server.epoch && at.sequence === heads.get(at.epoch));
  }
}

export async function allUpWith(listeners, ...servers) {
  const behind = () => listeners.filter((listener) => !listener.isUpWith(...servers));
  const say = () =>
    `to have the newest: ${behind().slice(0, 5).map(({ name, at }) => `${name} at ${JSON.stringify(at)}`)}`;
  await until(() => behind().length === 0, say);
}

export function checkAllHold(listeners) {
  for (const { name, broken } of listeners) check(broken.length === 0, `${name}: ${broken[0]}`);
}

// Runs in Node and in a page. Passes what an EventSource fires to `tell`.
export function listen(EventSource, url, tell) {
  const source = new EventSource(url);
  source.onopen = () => tell({ open: true });
  source.onmessage = (event) => tell({ id: event.lastEventId });
  source.addEventListener("gap", (event) => tell({ gap: JSON.parse(event.data) }));
  return source;
}

// Forwards to `port`, keeps the heads of requests, and cuts all connections on `cut()`.
export class FaultProxy {
  requests = [];
  pairs = new Set();

  static async start(port) {
    const proxy = new FaultProxy();
    proxy.port = port;
    const listener = net.createServer((client) => proxy.forward(client));
    await new Promise((resolve) => listener.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${listener.address().port}`;
    return proxy;
  }

  forward(client) {
    const server = net.connect(this.port, "127.0.0.1");
    const pair = { client, server, left: Infinity };
    this.pairs.add(pair);
    const end = () => this.end(pair);
    for (const socket of [client, server]) socket.on("error", end).on("close", end).setNoDelay();
    client.on("data", (bytes) => {
      const text = bytes.toString("latin1");
      if (/^[A-Z]+ \S+ HTTP\/1/.test(text)) this.requests.push(text); // each head fits into one packet
      server.write(bytes);
    });
    server.on("end", () => client.end());
    server.on("data", (bytes) => {
      client.write(bytes.subarray(0, Math.min(bytes.length, pair.left)));
      pair.left -= bytes.length;
      if (pair.left <= 0) this.end(pair);
    });
  }

  end(pair) {
    this.pairs.delete(pair);
    pair.server.destroy();
    // Either an end in the middle of a chunk, or a reset, which can destroy bytes in flight.
    if (Math.random() < 0.5) pair.client.destroySoon();
    else pair.client.resetAndDestroy();
  }

  // Cuts each connection within its next bytes, or at once: so it can break anywhere in an event.
  async cut() {
    const pairs = [...this.pairs];
    for (const pair of pairs) pair.left = Math.floor(Math.random() * 2_000);
    await pause(20);
    for (const pair of pairs) this.end(pair);
  }
}

// Starts nginx with its default configuration, plus the text that `http(folder)` returns.
export async function startNginx(http, ports) {
  const folder = temporaryFolder("nginx");
  const file = path.join(folder, "nginx.conf");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  writeFileSync(file, `
    daemon off;
    user root;
    pid ${folder}/pid;
    error_log ${folder}/error.log;
    worker_rlimit_nofile 8192;
    events { worker_connections 8192; }
    http {
      access_log off;
      ${temporary.map((kind) => `${kind}_temp_path ${folder}/${kind};`).join(" ")}
      ${http(folder)}
    }`);
  const nginx = start("nginx", ["-c", file, "-p", folder], { signal: "SIGTERM" });
  for (const port of ports) await accepts(port);
  return nginx;
}

async function accepts(port) {
  const connected = () =>
    new Promise((resolve) => {
      const socket = net.connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });
  for (const deadline = Date.now() + PATIENCE; !(await connected()); await pause(20)) {
    if (Date.now() > deadline) throw new Error(`nothing listens on port ${port}`);
  }
}

export function startChromium(options = {}) {
  return chromium.launch({
    ...options,
    executablePath: "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

// A page in Firefox, without a driver: the page comes from here, and posts what it has to tell.
export class Firefox {
  static async start() {
    const firefox = new Firefox();
    const server = http.createServer((request, response) => firefox.answer(request, response));
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    firefox.origin = `http://127.0.0.1:${server.address().port}`;
    return firefox;
  }

  // `script` puts what it has to tell into `told`.
  run(script, tell) {
    Object.assign(this, { script, tell });
    const profile = temporaryFolder("firefox");
    const preferences = {
      "network.proxy.type": 0, // none
      "network.websocket.delay-failed-reconnects": false, // else up to a minute, after a few cuts
    };
    const lines = Object.entries(preferences).map(([name, value]) => `user_pref("${name}", ${value});`);
    writeFileSync(path.join(profile, "user.js"), lines.join("\n"));
    start("firefox-esr", ["--headless", "--no-remote", "--profile", profile, this.origin], { detached: true });
  }

  async answer(request, response) {
    if (request.method === "POST") JSON.parse(await text(request)).forEach(this.tell);
    response.setHeader("Content-Type", "text/html");
    response.end(`<script>
      const told = [];
      const post = async () => {
        if (told.length) await fetch("/", { method: "POST", body: JSON.stringify(told.splice(0)) });
        setTimeout(post, 20);
      };
      post();
      ${this.script};
    </script>`);
  }
}

// Listens to `url` in a page. The page reports in batches, because each call costs a round trip.
export async function listenInPage(page, url, tell) {
  await page.exposeFunction("tellAll", (batch) => batch.forEach(tell));
  await page.evaluate(`
    const told = [];
    setInterval(() => told.length && tellAll(told.splice(0)), 20);
    (${listen})(EventSource, ${JSON.stringify(url)}, (heard) => told.push(heard));
    undefined`);
}

export const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

const SMALL = { width: 390, height: 844 };
const SMALLEST_TEXT = 12;

// Checks the page as it is now on a small screen.
export async function fitsASmallScreen(page) {
  await page.setViewportSize(SMALL);
  const { scroll, small } = await page.evaluate(`({
    scroll: document.documentElement.scrollWidth,
    small: [...document.querySelectorAll("body *")]
      .filter((element) => element.innerText?.trim() && !["SCRIPT", "STYLE"].includes(element.tagName))
      .map((element) => [parseFloat(getComputedStyle(element).fontSize), element.tagName])
      .filter(([size]) => size < ${SMALLEST_TEXT}),
  })`);
  check(scroll <= SMALL.width, `nothing is wider than ${SMALL.width} px: ${scroll}`);
  check(small.length === 0, `no text is under ${SMALLEST_TEXT} px: ${small[0]}`);
  console.log(`at ${SMALL.width}×${SMALL.height}: no horizontal scroll, no text under ${SMALLEST_TEXT} px`);
}
