// `common/feed.js` with a login: a cookie is sent to each server, also of another origin, and a page without a cookie
// gets a ticket for each request.

import { readFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import readline from "node:readline";

import { FaultProxy, Server, check, start, startChromium, until } from "./kit.js";

const MODULE = readFileSync(process.env.FEED_JS, "utf8");
const MEMBERS = { websocket: "websockets", sse: "sse", longPoll: "long-polling", poll: "short-polling" };
const TICKETS = { websocket: "websockets_access", sse: "sse_access", longPoll: "long_polling_access" };
const TOPIC = "news.a";

const chromium = await startChromium();
const site = await startSite();
for (const name of Object.keys(MEMBERS)) await theCookieIsSentToAnotherOrigin(name);
for (const name of Object.keys(TICKETS)) await eachRequestHasItsTicket(name);
await chromium.close();
process.exit(0);

async function theCookieIsSentToAnotherOrigin(name) {
  const program = path.join(process.env.SERVERS, MEMBERS[name]);
  const server = await Server.start(["--allow-origin", site], 0, program);
  const proxy = await FaultProxy.start(server.port);
  const page = await open(site);
  await page.context().addCookies([{ name: "login", value: "ann", url: site }]);
  await subscribe(page, name, proxy.url);
  await server.publish(TOPIC, "hello");
  await until(() => page.evaluate("texts.includes('hello')"), () => `${name}: the message`);
  check(proxy.requests.every((head) => /^cookie: login=ann\r$/im.test(head)), `${name}: ${proxy.requests}`);
  await page.context().close();
  await server.stop();
  console.log(`${name}: the cookie is sent to another origin`);
}

// The access example takes each ticket once.
async function eachRequestHasItsTicket(name) {
  const { child } = start(path.join(process.env.SERVERS, "examples", TICKETS[name]), ["127.0.0.1:0"]);
  const lines = readline.createInterface({ input: child.stdout });
  const url = await new Promise((resolve) =>
    lines.on("line", (line) => line.startsWith("listening on ") && resolve(line.split(" ").at(-1))));
  const page = await open(url);
  await page.evaluate(`(async () => {
    const login = { sub: "ann", topics: "news.*", seconds: 3600 };
    const { token } = await (await fetch("/login", { method: "POST", body: JSON.stringify(login) })).json();
    globalThis.bearing = (path, body) =>
      fetch(path, { method: "POST", body, headers: { Authorization: "Bearer " + token } });
    globalThis.query = async () => (await bearing("/tickets")).json();
  })()`);
  await page.context().clearCookies();
  await subscribe(page, name, "");
  for (const text of ["one", "two"]) {
    await page.evaluate(`bearing("/topics/${TOPIC}", "${text}")`);
    await until(() => page.evaluate(`texts.includes("${text}")`), () => `${name}: the message ${text}`);
  }
  await page.evaluate(`dispatchEvent(new Event("online"))`); // it connects again
  await page.evaluate(`bearing("/topics/${TOPIC}", "three")`);
  await until(() => page.evaluate(`texts.includes("three")`), () => `${name}: the message three`);
  check((await page.evaluate("texts.join()")) === "one,two,three", `${name}: each message comes once`);
  check((await page.evaluate("states.join()")) === "connecting,live,connecting,live", `${name}: no ticket is refused`);
  await page.context().close();
  console.log(`${name}: each request has its ticket`);
}

// Serves an empty page.
async function startSite() {
  const server = http.createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end("<!doctype html>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}`;
}

// A page of this site, which also has the module.
async function open(url) {
  const page = await (await chromium.newContext()).newPage();
  await page.route(`${url}/feed.js`, (route) => route.fulfill({ contentType: "text/javascript", body: MODULE }));
  await page.goto(url);
  return page;
}

async function subscribe(page, name, base) {
  await page.evaluate(`(async () => {
    const { subscribe } = await import("/feed.js");
    globalThis.texts = []; globalThis.states = [];
    subscribe(["${TOPIC}"], {
      servers: { ${name}: "${base}" },
      query: globalThis.query,
      onMessage: ({ data }) => texts.push(data),
      onState: (state) => states.push(state),
    });
  })()`);
  await until(() => page.evaluate(`states.at(-1) === "live"`), () => `${name} to be live`);
}
