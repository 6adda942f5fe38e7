// `common/feed.js` with `share: true`: all tabs use the connection of one of them, the leader. Messages are published
// while tabs open, close, crash, hang, or go into the back/forward cache. Each tab gets each message once.

import { NAMES, block, blocked, context, end, hasAll, liveOn, open, openPage, publish, startServer, visit } from "./front.js";
import { check, until } from "./kit.js";

// Shorter than a heartbeat: a tab must not need one to notice.
const SOON = 5_000;

const tabs = []; // in the order in which they become the leader
for (let count = 3; count > 0; count -= 1) tabs.push(await openPage("/?share"));
await allHaveAll();
console.log("three tabs share one connection");
await aNewTabCatchesUp();
await aTabThatBeginsAgainFollowsAgain();
await theNextTakesOver("is closed", (leader) => leader.close());
await theNextTakesOver("crashes", crash);
await aTransportFails();
await aLeaderInTheCacheIsReplaced();
await noTabWaitsForALeaderThatHangs();
await aRestartIsNamedInEachTab();
await end();

async function allHaveAll(connections = 1) {
  await publish(10);
  for (const tab of tabs) await hasAll(tab);
  await until(() => open.size === connections, () => `${connections} connections, not ${open.size}`, SOON);
  for (const tab of tabs) check(await tab.evaluate("states.every((state, at) => state !== states[at - 1])"), "each state is told once");
}

async function aNewTabCatchesUp() {
  tabs.push(await openPage("/?share"));
  await hasAll(tabs.at(-1));
  await until(() => open.size === 1, () => "the new tab's own connection to close", SOON);
  await allHaveAll();
  console.log("a new tab catches up");
}

async function aTabThatBeginsAgainFollowsAgain() {
  await tabs.at(-1).evaluate(`dispatchEvent(new Event("online"))`);
  await allHaveAll();
  console.log("a tab that begins again follows again");
}

async function theNextTakesOver(what, leave) {
  const publishing = publish(20);
  await leave(tabs.shift());
  await publishing;
  await allHaveAll();
  console.log(`the next tab takes over when the leader ${what}`);
}

async function crash(tab) {
  const crashed = tab.waitForEvent("crash");
  (await context.newCDPSession(tab)).send("Page.crash").catch(() => {}); // it is not answered
  await crashed;
  await tab.close();
}

async function aTransportFails() {
  const publishing = publish(20);
  block("websocket");
  await publishing;
  await allHaveAll();
  for (const tab of tabs) await liveOn(tab, "sse");
  blocked.clear();
  console.log("all tabs leave a transport that fails");
}

async function aLeaderInTheCacheIsReplaced() {
  const left = tabs.shift();
  await left.evaluate("ids.kept = true");
  await visit(left, "/elsewhere");
  await allHaveAll();
  await left.evaluate("history.back()");
  await left.waitForFunction("globalThis.ids?.kept");
  tabs.push(left);
  await allHaveAll();
  console.log("a leader in the back/forward cache is replaced, and follows when it is shown again");
}

// The tab holds the lock, but nothing in it runs any more.
async function noTabWaitsForALeaderThatHangs() {
  const follower = await openPage("/elsewhere");
  await follower.addInitScript("const slow = setTimeout; setTimeout = (run, time) => slow(run, time / 20);");
  await visit(follower, "/?share");
  tabs.push(follower);
  await allHaveAll();
  const leader = tabs.shift();
  const debug = await context.newCDPSession(leader);
  await debug.send("Debugger.enable");
  await debug.send("Debugger.pause");
  await publish(10);
  await hasAll(follower);
  for (const name of NAMES) blocked.add(name); // for new connections
  await until(() => follower.evaluate(`states.at(-1) !== "live websocket"`), () => "a follower on its own");
  await debug.send("Debugger.resume");
  await debug.send("Debugger.disable");
  tabs.push(leader);
  await allHaveAll();
  for (const tab of tabs) await liveOn(tab, "websocket");
  blocked.clear();
  console.log("no tab waits for a leader that hangs");
}

async function aRestartIsNamedInEachTab() {
  for (const tab of tabs.splice(0)) await tab.close();
  const server = await startServer("sse");
  for (let count = 2; count > 0; count -= 1) tabs.push(await openPage("/?share&only=sse"));
  const [, follower] = tabs;
  await publish(3, "sse");
  for (const tab of tabs) await has(tab, "1,2,3", "");
  server.child.kill("SIGKILL");
  await until(() => follower.evaluate(`states.at(-1) !== "live sse"`), () => "the server to be lost");
  const again = await startServer("sse");
  await publish(2, "sse");
  for (const tab of tabs) await has(tab, "1,2,3,1,2", "foreign");
  again.end();
  console.log("a server that starts again is a gap in each tab");
}

async function has(tab, sequence, gaps) {
  const numbers = async () => `${(await tab.evaluate("ids")).map((id) => id.split("-")[1])}`;
  await until(async () => (await numbers()) === sequence, () => `${sequence}`);
  const reasons = (await tab.evaluate("gaps")).map(({ reason }) => reason);
  check(`${reasons}` === gaps, `the gaps are [${gaps}], not [${reasons}]`);
}
