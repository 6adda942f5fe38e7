// A web site whose page uses `common/feed.js`, in front of all servers on one feed. It can block a server by name.

import { readFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import readline from "node:readline";
import { check, start, startChromium, until } from "./kit.js";

const TOPIC = "handover";
// The page's names, in the order of its choices, and the servers'.
const SERVERS = { websocket: "websockets", sse: "sse", longPoll: "long-polling", poll: "short-polling" };
export const NAMES = Object.keys(SERVERS);

export const blocked = new Set();
export const open = new Set(); // connections to servers
export let published = 0;
const ports = await startServers();
const front = await startFront();
const chromium = await startChromium({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });
export const context = await chromium.newContext(); // its pages share an origin's locks and channels
const broken = [];

// PATH is `/elsewhere`, or `/` with `only=NAME`, `share` or `after=POSITION` in its query.
export async function openPage(path) {
  const page = await context.newPage();
  page.on("pageerror", (error) => broken.push(error.message));
  await visit(page, path);
  return page;
}

export const visit = (page, path) => page.goto(front + path);

export async function end() {
  check(broken.length === 0, `no error in a page: ${broken[0]}`);
  await chromium.close();
  process.exit(0);
}

async function startServers() {
  const { child } = start(process.env.ONE_FEED, []);
  const found = {};
  for await (const line of readline.createInterface({ input: child.stdout })) {
    const [name, url] = line.split(" ");
    found[name] = new URL(url).port;
    if (Object.keys(found).length === 5) return found;
  }
}

// One server with its own feed. It ends when its standard input does.
export async function startServer(name) {
  const started = start(process.env.SERVER, ["serve", SERVERS[name]], { stdio: "pipe" });
  const lines = readline.createInterface({ input: started.child.stdout });
  const line = await new Promise((resolve) => lines.once("line", resolve));
  ports[SERVERS[name]] = new URL(line.split(" ").at(-1)).port;
  return started;
}

// Serves the page and the module, and forwards `/NAME/…` to the server, unless it is blocked.
async function startFront() {
  const page = `<!doctype html><title>feed.js</title><script type="module">
    import { subscribe } from "/feed.js";
    window.ids = []; window.gaps = []; window.states = [];
    const query = new URLSearchParams(location.search);
    const names = query.has("only") ? [query.get("only")] : ${JSON.stringify(NAMES)};
    subscribe(["${TOPIC}"], {
      servers: Object.fromEntries(names.map((name) => [name, "/" + name])),
      after: query.get("after") ?? "earliest",
      share: query.has("share"),
      onMessage: ({ id }) => ids.push(id),
      onGap: (gap) => gaps.push(gap),
      onState: (state, name) => states.push(state + " " + name),
    });
  </script>`;
  const files = { "/": ["text/html", page], "/elsewhere": ["text/html", ""], "/feed.js": ["text/javascript", readFileSync(process.env.FEED_JS)] };
  const server = http.createServer((request, response) => {
    const [type, body] = files[request.url.split("?")[0]] ?? [];
    if (type) return response.setHeader("Content-Type", type).end(body);
    forward(request, request.socket, response);
  });
  server.on("upgrade", (request, socket) => forward(request, socket));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}`;
}

function forward(request, socket, response) {
  const [, name, rest] = request.url.match(/^\/(\w+)(\/.*)/) ?? [];
  if (!name || blocked.has(name)) return socket.destroy();
  const through = net.connect(ports[SERVERS[name]], "127.0.0.1");
  const connection = { name, socket };
  open.add(connection);
  const end = () => { open.delete(connection); through.destroy(); socket.destroy(); };
  for (const one of [through, socket]) one.on("error", end).on("close", end);
  const fields = Object.entries(request.headers).filter(([field]) => response ? field !== "connection" : true);
  if (response) fields.push(["connection", "close"]);
  through.write(`${request.method} ${rest} HTTP/1.1\r\n${fields.map(([field, value]) => `${field}: ${value}\r\n`).join("")}\r\n`);
  through.pipe(socket); // the server's bytes, its head among them
  if (!response) socket.pipe(through);
}

// Destroys the open connections of a server, and every new one.
export function block(name) {
  blocked.add(name);
  for (const connection of open) if (connection.name === name) connection.socket.destroy();
}

// Returns what the last is answered.
export async function publish(count, name = "sse", topic = TOPIC) {
  let answer;
  for (let left = count; left > 0; left -= 1) {
    answer = await fetch(`http://127.0.0.1:${ports[SERVERS[name]]}/topics/${topic}`, { method: "POST", body: "text" });
    check(answer.status === 201, "a publish is answered 201");
    published += 1;
  }
  return answer.json();
}

// The page has each message after the first `before` once and in order, and was told of no gap.
export async function hasAll(page, before = 0) {
  const missing = async () => published - before - (await page.evaluate("ids.length"));
  await until(async () => (await missing()) <= 0, () => `all of ${published} messages`);
  const sequence = (await page.evaluate("ids")).map((id) => Number(id.split("-")[1]));
  const expected = Array.from({ length: published - before }, (_, at) => before + at + 1);
  check(`${sequence}` === `${expected}`, `each message once: ${sequence}`);
  check((await page.evaluate("gaps.length")) === 0, "there is no gap");
}

export function liveOn(page, name) {
  return until(() => page.evaluate(`states.at(-1) === "live ${name}"`), () => `live ${name}`);
}
