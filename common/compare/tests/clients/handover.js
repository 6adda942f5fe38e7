// `common/feed.js` in a browser. Each transport is blocked in turn while messages are published. Nothing is lost, nothing
// comes twice, and a page in the back/forward cache holds no connection. Then each transport alone, while its server
// restarts with another feed.

import { NAMES, block, blocked, end, hasAll, liveOn, open, openPage, publish, published, startServer, visit } from "./front.js";
import { check, until } from "./kit.js";

const page = await openPage("/");
for (const name of NAMES) await handsOver(name);
await theFirstIsTriedAgain();
await oneThatWasLiveIsTriedAgain();
await aPageInTheCacheHoldsNoConnection();
await aPageThatIsLoadedAgainGoesOn();
await page.close();
await Promise.all(NAMES.map(aRestartIsNamed));
await end();

// Blocks a transport in the middle of messages.
async function handsOver(name) {
  await liveOn(page, name);
  const publishing = publish(20);
  if (name !== NAMES.at(-1)) block(name);
  await publishing;
  await hasAll(page);
  console.log(`${name}: ${published} messages, each once`);
}

async function theFirstIsTriedAgain() {
  blocked.clear();
  for (let count = 2; count > 0; count -= 1) {
    await page.evaluate(`dispatchEvent(new Event("online"))`);
    await liveOn(page, "websocket");
  }
  await until(() => open.size === 1, () => `one connection, not ${open.size}`);
  await publish(5);
  await hasAll(page);
}

async function oneThatWasLiveIsTriedAgain() {
  await page.evaluate("states.length = 0");
  for (const { socket } of open) socket.destroy();
  await liveOn(page, "websocket");
  const states = await page.evaluate("states.join()");
  check(states === "lost websocket,connecting websocket,live websocket", `the same is tried again: ${states}`);
}

async function aPageInTheCacheHoldsNoConnection() {
  await page.evaluate("ids.kept = true");
  await visit(page, "/elsewhere");
  await until(() => open.size === 0, () => "the connection of the page to close");
  await publish(5);
  await page.evaluate("history.back()");
  await page.waitForFunction("globalThis.ids?.kept");
  await hasAll(page);
  console.log("a page in the back/forward cache holds no connection, and goes on when it is shown again");
}

async function aPageThatIsLoadedAgainGoesOn() {
  const before = published;
  await page.reload();
  await publish(5);
  await hasAll(page, before);
  console.log("a page that is loaded again goes on after its cursor");
}

// What was lost with the server is named once, and nothing comes twice.
async function aRestartIsNamed(name) {
  const server = await startServer(name);
  const page = await openPage(`/?only=${name}`);
  await liveOn(page, name);
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
