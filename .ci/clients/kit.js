// What the checks with real clients share: the server under test, nginx, a proxy that cuts, and the rule
// of delivery. Copied beside the checks of a member before they run.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { chromium } from "playwright-core";

// How long anything may take before the check fails.
const PATIENCE = 30_000;

// Waits until `holds()` is true.
export async function until(holds, what, patience = PATIENCE) {
  for (const deadline = Date.now() + patience; !holds(); await pause(5)) {
    if (Date.now() > deadline) throw new Error(`not within ${patience / 1000} s: ${what()}`);
  }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export function check(holds, claim) {
  if (!holds) throw new Error(`does not hold: ${claim}`);
}

// A free port outside the range from which outgoing connections take theirs: while a server is
// down for its restart, nobody else gets its port.
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

// Whatever was started ends with this process, however it ends.
const endings = new Set();
const log = []; // what it said on stderr, for a check that fails
process.on("exit", (status) => {
  endings.forEach((end) => end());
  if (status !== 0) process.stderr.write(log.join(""));
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

function start(program, args, { signal = "SIGKILL", ...options } = {}) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
  child.stderr.on("data", (text) => log.push(text));
  const target = options.detached ? -child.pid : child.pid;
  const end = () => process.kill(target, signal);
  endings.add(end);
  const exited = new Promise((resolve) => child.once("exit", resolve));
  exited.then(() => endings.delete(end));
  return { child, exited, end };
}

// Runs a client that prints a line of JSON for each thing it hears.
export function startClient(program, args, tell) {
  const { child } = start(program, args, { detached: true }); // its own group: curl.sh has a curl
  readline.createInterface({ input: child.stdout }).on("line", (line) => tell(JSON.parse(line)));
}

// The last id of each epoch: a server that is started again is another epoch.
export const heads = new Map();

// One process of the server under test.
export class Server {
  static async start(args = [], port = 0) {
    const server = new Server();
    server.args = args;
    const listen = ["--listen", `127.0.0.1:${port}`];
    Object.assign(server, start(process.env.SERVER, [...listen, ...args]));
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

  // Publishes so many messages over a few connections that are kept.
  async publishMany(topic, count) {
    let left = count;
    const publisher = async () => {
      while (left-- > 0) await this.publish(topic, `message ${left}`);
    };
    await Promise.all(Array.from({ length: 8 }, publisher));
  }

  // Starts the server again on its port.
  async restart() {
    await this.stop();
    return Server.start(this.args, this.port);
  }

  // Ends the process as an operator does.
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

// What one client heard, held against the rule: each id is the successor of the one before it, and
// only a gap jumps, from what the client holds to another epoch. So nothing is lost without a
// name, nothing comes twice and nothing out of order.
export class Listener {
  opens = 0;
  received = 0;
  gaps = 0;
  jumps = [];
  broken = [];
  at = undefined; // the last position, of a message or after a gap
  holds = []; // the ids from which the client may ask on

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
    // It asked for the earliest, which is the first: nothing has been trimmed.
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
    // Cut off before it had a message, it hears of the same gap again.
    if (this.at.epoch !== to.epoch) this.jumps.push({ from: this.at, to });
    this.at = to;
    this.holds.push(resumed);
  }

  // How many messages its gaps named: the rest of the epoch that it left.
  get named() {
    return this.jumps.reduce(
      (sum, { from, to }) => sum + heads.get(from.epoch) - from.sequence + to.sequence,
      0,
    );
  }

  // Whether it has the newest message of one of the servers.
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

// Runs in Node and in a page: `tell` hears what an EventSource fires.
export function listen(EventSource, url, tell) {
  const source = new EventSource(url);
  source.onopen = () => tell({ open: true });
  source.onmessage = (event) => tell({ id: event.lastEventId });
  source.addEventListener("gap", (event) => tell({ gap: JSON.parse(event.data) }));
  return source;
}

// Forwards to `port`, remembers the heads of requests, and cuts connections when told.
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
      if (/^[A-Z]+ \S+ HTTP\/1/.test(text)) this.requests.push(text); // one packet each, here
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
    // An end in the middle of a chunk, or a reset, which may take bytes back that were on their way.
    if (Math.random() < 0.5) pair.client.destroySoon();
    else pair.client.resetAndDestroy();
  }

  // Cuts each connection within its next few bytes, or without them: anywhere in a block.
  async cut() {
    const pairs = [...this.pairs];
    for (const pair of pairs) pair.left = Math.floor(Math.random() * 2_000);
    await pause(20);
    for (const pair of pairs) this.end(pair);
  }
}

// An nginx with its default configuration but for the text of `http`, which is given its folder.
export async function startNginx(http, ports) {
  const folder = mkdtempSync(path.join(tmpdir(), "nginx-"));
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
  endings.add(() => rmSync(folder, { recursive: true, force: true }));
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
    if (Date.now() > deadline) throw new Error(`nobody listens on port ${port}`);
  }
}

export function startChromium() {
  return chromium.launch({
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

// Listens in a page to `url`; the page tells in batches, since each call costs a round trip.
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

// What is on the page now, on a small screen.
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
