// `common/feed.js` where the page or the browser gets in its way: callbacks that throw or close the subscription, and a
// browser that stores nothing. Over each transport.

import { NAMES, block, blocked, context, end, open, publish, published, startServer, visit } from "./front.js";
import { check, until } from "./kit.js";

await publish(5);
for (const name of NAMES) {
  await aCallbackMayThrow(name);
  await aCallbackMayClose(name, "message");
  await aCallbackMayClose(name, "state");
  await aTryMayBeTheLast(name);
  await aTicketMayNotCome(name);
  await theTopicMayBeSilent(name);
  await theBrowserMayStoreNothing(name);
}
await aTransportMayNotExist();
await theOrderOfTopicsIsNoDifference();
await aCursorAheadOfTheFeedIsAGap();
await end();

// Every callback throws. All messages come once all the same, and the page sees its errors.
async function aCallbackMayThrow(name) {
  const page = await newPage();
  const errors = [];
  page.on("pageerror", ({ message }) => errors.push(message));
  await subscribe(page, name, { act: `throw Error(kind)`, after: "other-1" });
  await hasAll(page);
  for (const kind of ["state", "gap", "message"]) check(errors.includes(kind), `${name}: the error in ${kind} is reported`);
  await publish(2);
  await hasAll(page);
  check((await told(page, "gap")).length === 1, `${name}: the gap comes once`);
  await page.close();
  console.log(`${name}: callbacks may throw`);
}

// The first call of a callback, but the one within `subscribe`, closes the subscription. It is the last call of all.
async function aCallbackMayClose(name, kind) {
  const page = await newPage();
  await subscribe(page, name, { act: `kind === "${kind}" && globalThis.subscription?.close()` });
  await page.waitForFunction(`told.some(([kind]) => kind === "${kind}")`);
  await until(() => open.size === 0, () => "the connection to close");
  await publish(1);
  const calls = await page.evaluate("told");
  const closed = calls.findIndex(([called, , closes]) => called === kind && closes);
  check(closed === calls.length - 1, `${name}: nothing comes after close: ${JSON.stringify(calls)}`);
  await page.close();
  console.log(`${name}: nothing comes after a close in on ${kind}`);
}

// The subscription is closed when it says that it connects again. Then it does not.
async function aTryMayBeTheLast(name) {
  const page = await newPage(count);
  block(name);
  await subscribe(page, name, { act: `what === "connecting" && made && subscription.close()` });
  await page.waitForFunction(`told.filter(([, what]) => what === "connecting").length === 2`);
  check(await page.evaluate("made") === 1, `${name}: no connection after a close`);
  blocked.clear();
  await page.close();
  console.log(`${name}: a subscription that is closed between two tries does not connect`);
}

// Each is waited for as long as for a server. One that comes after the close opens no connection.
async function aTicketMayNotCome(name) {
  const fast = "const slow = setTimeout; setTimeout = (run, time) => slow(run, time / 20);";
  const page = await newPage(`(${count})(); ${fast}`);
  const query = `() => new Promise((resolve) => (globalThis.tickets ??= []).push(resolve))`;
  await subscribe(page, name, { more: `query: ${query}` });
  await page.waitForFunction(`tickets.length > 1 && told.some(([, what]) => what === "lost")`);
  const asked = await page.evaluate(`(async () => {
    subscription.close();
    for (const resolve of tickets) resolve({ ticket: "late" });
    const asked = tickets.length;
    await new Promise((resolve) => setTimeout(resolve)); // what the tickets led to has run
    return [asked, tickets.length];
  })()`);
  check(asked[0] === asked[1], `${name}: no ticket is asked for after a close`);
  check(await page.evaluate("made") === 0, `${name}: no connection without a ticket`);
  await page.close();
  console.log(`${name}: a ticket may not come`);
}

// Runs in a page. `made` is how many connections it opened.
function count() {
  globalThis.made = 0;
  const counted = (type) => new Proxy(type, { construct: (_, args) => { made += 1; return new type(...args); } });
  globalThis.WebSocket = counted(WebSocket);
  globalThis.EventSource = counted(EventSource);
  const { fetch } = globalThis;
  globalThis.fetch = (...args) => { made += args[1].signal.aborted ? 0 : 1; return fetch(...args); };
}

// A page that is loaded again goes on after all that other topics had, though it was told of nothing.
async function theTopicMayBeSilent(name) {
  const page = await newPage();
  await subscribe(page, name, { after: "latest", topics: ["silent"] });
  await page.waitForFunction(`Object.values(sessionStorage).some((cursor) => cursor.endsWith("-${published}"))`);
  await page.close();
  console.log(`${name}: a silent topic has a cursor`);
}

async function theBrowserMayStoreNothing(name) {
  const denials = [
    `Object.defineProperty(window, "sessionStorage", { get: deny });`,
    `Storage.prototype.setItem = deny;`, // it is full
    `navigator.locks.request = async () => deny();`,
    `BroadcastChannel = class { constructor() { deny(); } };`,
  ];
  for (const denial of denials) {
    const page = await newPage(`const deny = () => { throw new DOMException("denied", "SecurityError"); }; ${denial}`);
    await subscribe(page, name, { share: true });
    await hasAll(page);
    await page.close();
  }
  console.log(`${name}: a browser may store nothing`);
}

async function aTransportMayNotExist() {
  const page = await newPage("WebSocket = undefined");
  await subscribe(page, "websocket", { more: `servers: { websocket: "/websocket", sse: "/sse" }` });
  await hasAll(page);
  await page.close();
  console.log("a browser without a transport takes the next");
}

async function theOrderOfTopicsIsNoDifference() {
  const pages = [];
  for (const topics of [["handover", "b"], ["b", "handover"]]) {
    pages.push(await newPage());
    await subscribe(pages.at(-1), "websocket", { topics, share: true });
  }
  for (const page of pages) await hasAll(page);
  await until(() => open.size === 1, () => `one connection, not ${open.size}`);
  console.log("tabs with the same topics in another order share a connection");
}

// As after the restore of an old copy of a feed. What comes next has numbers up to the page's cursor.
async function aCursorAheadOfTheFeedIsAGap() {
  const server = await startServer("sse");
  const { id } = await publish(1, "sse");
  const [epoch] = id.split("-");
  const page = await newPage();
  await subscribe(page, "sse", { after: `${epoch}-3`, topics: ["quiet"] });
  await page.waitForFunction(`told.some(([kind]) => kind === "gap")`);
  block("sse");
  await publish(1, "sse", "quiet");
  await publish(2, "sse");
  blocked.clear();
  await page.waitForFunction(`told.some(([kind, { id }]) => kind === "message" && id === "${epoch}-2")`);
  check(`${(await told(page, "gap")).map(({ reason }) => reason)}` === "ahead", "there is one gap");
  server.end();
  console.log("a cursor ahead of the feed is a gap, and no message is lost after it");
}

async function newPage(before = "") {
  const page = await context.newPage();
  await page.addInitScript(before);
  await visit(page, "/elsewhere");
  return page;
}

// `told` has each call of a callback. `act` is run in each.
function subscribe(page, name, { act = "", after = "earliest", share = false, topics = ["handover"], more = "" }) {
  return page.evaluate(`(async () => {
    const { subscribe } = await import("/feed.js");
    globalThis.told = [];
    const on = (kind) => (what) => {
      told.push([kind, what, Boolean(globalThis.subscription)]);
      ${act};
    };
    globalThis.subscription = subscribe(${JSON.stringify(topics)}, {
      servers: { ${name}: "/${name}" }, after: "${after}", share: ${share},
      onMessage: on("message"), onGap: on("gap"), onState: on("state"),
      ${more}
    });
  })()`);
}

function told(page, kind) {
  return page.evaluate(`told.filter(([called]) => called === "${kind}").map(([, what]) => what)`);
}

async function hasAll(page) {
  const numbers = async () => (await told(page, "message")).map(({ id }) => Number(id.split("-")[1]));
  await until(async () => (await numbers()).length >= published, () => `all of ${published} messages`, 8_000);
  const expected = Array.from({ length: published }, (_, at) => at + 1);
  check(`${await numbers()}` === `${expected}`, `each message once: ${await numbers()}`);
}
