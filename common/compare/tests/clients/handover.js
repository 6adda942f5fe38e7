// `common/feed.js` in a browser, in front of all servers on one feed. Each transport is blocked in turn while messages
// are published. Nothing is lost, nothing comes twice, and a page that is left holds no connection. Then each transport
// alone, while its server starts again with another feed.

import { readFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import readline from "node:readline";
import { check, start, startChromium, until } from "./kit.js";

const TOPIC = "handover";
// The page's names, in the order of its choices, and the servers'.
const SERVERS = { websocket: "websockets", sse: "sse", longPoll: "long-polling", poll: "short-polling" };
const NAMES = Object.keys(SERVERS);

const ports = await startServers();
const blocked = new Set();
const open = new Set(); // connections to servers
const front = await startFront();
const chromium = await startChromium({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });
const broken = [];
const page = await openPage("/");
let published = 0;
let reported = 0; // ids that were compared
for (const name of NAMES) await handsOver(name);
await theFirstIsTriedAgain();
await aPageThatIsLeftLetsGo();
await aPageThatIsLoadedAgainGoesOn();
await page.close();
await Promise.all(NAMES.map(aRestartIsNamed));
check(broken.length === 0, `no error in the page: ${broken[0]}`);
await chromium.close();
process.exit(0);

async function openPage(path) {
  const opened = await chromium.newPage();
  opened.on("pageerror", (error) => broken.push(error.message));
  await opened.goto(front + path);
  return opened;
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

// One server with a feed of its own. It ends with its standard input.
async function startServer(name) {
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
    const names = location.search ? [location.search.slice(1)] : ${JSON.stringify(NAMES)};
    subscribe(["${TOPIC}"], {
      servers: Object.fromEntries(names.map((name) => [name, "/" + name])),
      after: "earliest",
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

async function publish(count, name = "sse") {
  for (let left = count; left > 0; left -= 1) {
    const answer = await fetch(`http://127.0.0.1:${ports[SERVERS[name]]}/topics/${TOPIC}`, { method: "POST", body: "text" });
    check(answer.status === 201, "a publish is answered 201");
    published += 1;
  }
}

// What the page has is what was published, each once and in order.
async function hasAll() {
  await until(async () => (await page.evaluate("ids.length")) >= published - reported, () => `${published} messages`);
  const sequence = (await page.evaluate("ids")).map((id) => Number(id.split("-")[1]));
  const expected = Array.from({ length: published - reported }, (_, at) => reported + at + 1);
  check(`${sequence}` === `${expected}`, `each message once: ${sequence}`);
  check((await page.evaluate("gaps.length")) === 0, "there is no gap");
}

function liveOn(name, where = page) {
  return until(() => where.evaluate(`states.at(-1) === "live ${name}"`), () => `live ${name}`);
}

// Blocks a transport in the middle of messages.
async function handsOver(name) {
  await liveOn(name);
  const publishing = publish(20);
  if (name !== NAMES.at(-1)) {
    blocked.add(name);
    for (const connection of open) if (connection.name === name) connection.socket.destroy();
  }
  await publishing;
  await hasAll();
  console.log(`${name}: ${published} messages, each once`);
}

async function theFirstIsTriedAgain() {
  blocked.clear();
  await page.evaluate(`dispatchEvent(new Event("online"))`);
  await liveOn("websocket");
  await publish(5);
  await hasAll();
}

async function aPageThatIsLeftLetsGo() {
  await page.evaluate("ids.kept = true");
  await page.goto(`${front}/elsewhere`);
  await until(() => open.size === 0, () => "no connection of the page that was left");
  await publish(5);
  await page.evaluate("history.back()");
  await page.waitForFunction("globalThis.ids?.kept");
  await hasAll();
  console.log("a page that is left lets go, and goes on when it is shown again");
}

async function aPageThatIsLoadedAgainGoesOn() {
  reported = published;
  await page.reload();
  await publish(5);
  await hasAll();
  console.log("a page that is loaded again goes on after its cursor");
}

// What was lost with the server is named once, and nothing comes twice.
async function aRestartIsNamed(name) {
  const server = await startServer(name);
  const page = await openPage(`/?${name}`);
  await liveOn(name, page);
  await publish(3, name);
  await until(() => page.evaluate("ids.length === 3"), () => `${name}: 3 messages`);
  server.child.kill("SIGKILL");
  await until(() => page.evaluate(`states.at(-1) !== "live ${name}"`), () => `${name} to be lost`);
  const again = await startServer(name);
  await publish(2, name);
  await until(() => page.evaluate("ids.length === 5"), () => `${name}: 2 messages of another feed`);
  const sequence = (await page.evaluate("ids")).map((id) => Number(id.split("-")[1]));
  check(`${sequence}` === "1,2,3,1,2", `${name}: each message once: ${sequence}`);
  const gaps = (await page.evaluate("gaps")).map(({ reason }) => reason);
  check(`${gaps}` === "foreign", `${name}: one gap, not ${gaps}`);
  console.log(`${name}: a server that starts again is a gap`);
  await page.close();
  again.end();
}
