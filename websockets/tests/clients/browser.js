// The page in a browser: its chat and its chart show the messages, report a lost connection, and catch
// up. A page of another origin gets nothing.

import {
  FaultProxy, Server, check, freePort, startChromium, startNginx,
} from "./kit.js";

const chromium = await startChromium();
await thePage();
await behindNginx();
await chromium.close();
process.exit(0);

async function thePage() {
  let server = await Server.start(["--drain", "1"], await freePort());
  const proxy = await FaultProxy.start(server.port);
  const [alice, bob] = [await open(proxy.url), await open(proxy.url)];
  await say(alice, "hello");
  await hears(bob, "Alice: hello");
  await alice.click("#trade");
  await bob.waitForFunction(`document.getElementById("line").getAttribute("points")?.split(" ").length > 3`);
  await alice.click("#trade");

  // Bob receives what was said while he was away.
  const [state, opened] = [bob.locator("#state"), await lines(bob)];
  await bob.evaluate(`states = []; new MutationObserver(() =>
    states.push(document.getElementById("state").className)).observe(document.getElementById("state"), { attributes: true })`);
  await proxy.cut();
  await server.publish("chat", "said while you were away");
  await hears(bob, "said while you were away");
  await bob.waitForFunction(`document.getElementById("state").className === "live"`);
  const states = await bob.evaluate("states");
  check(states.includes("retrying") && states.at(-1) === "live", `lost and live again: ${states}`);
  check((await lines(bob)) === opened + 1, "nothing is shown twice");

  // A message that is written while the server is down is sent once, when it is up again.
  await server.stop();
  await bob.waitForFunction(`document.getElementById("state").className === "retrying"`);
  await say(alice, "to nobody yet");
  server = await Server.start(["--drain", "1"], server.port);
  await hears(bob, "Alice: to nobody yet");
  const gaps = await bob.locator("#log li.gap").count();
  check(gaps > 0, "a restart is a gap, and the page says so");
  check((await bob.locator("#log").getByText("to nobody yet").count()) === 1, "what was not acknowledged counts once");
  console.log(`the page: chat and chart live, ${await state.textContent()} again after a cut and a restart, ${gaps} gaps shown`);

  await wakesUp(proxy.url);
  await refusesOthers(server);
  await alice.close();
  await bob.close();
  await server.stop();
}

// A computer wakes up. The page's timers are due, and it has read nothing yet.
async function wakesUp(url) {
  const page = await chromium.newPage();
  await page.clock.install();
  await page.goto(url);
  await page.waitForFunction(`document.getElementById("state").className === "live"`);
  await page.evaluate(`states = []; new MutationObserver(() =>
    states.push(document.getElementById("state").className)).observe(document.getElementById("state"), { attributes: true })`);
  await page.clock.fastForward("10:00");
  await say(page, "awake");
  await hears(page, "Alice: awake");
  check((await page.evaluate("states")).length === 0, "a page that was asleep keeps its connection");
  console.log("a page that was asleep: still live");
  await page.close();
}

// A browser sends its cookies with the WebSocket of a foreign page, too. Only the origin tells them apart.
async function refusesOthers(server) {
  const foreign = await FaultProxy.start(server.port);
  const page = await chromium.newPage();
  await page.goto(`${foreign.url}/healthz`);
  const [opened, code] = await page.evaluate(`new Promise((resolve) => {
    const socket = new WebSocket("${server.url.replace("http", "ws")}/topics/chat");
    let opened = false;
    socket.onopen = () => (opened = true);
    socket.onclose = ({ code }) => resolve([opened, code]);
  })`);
  check(!opened && code === 1006, "a page of another origin does not get in");
  console.log("a page of another origin: refused");
  await page.close();
}

// `Host $host` drops the port. Then the server cannot recognize its own origin.
async function behindNginx() {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  for (const [allowed, args] of [[false, []], [true, ["--allow-origin", origin]]]) {
    const server = await Server.start(args);
    const nginx = await startNginx(() => `
      server {
        listen 127.0.0.1:${port};
        location / {
          proxy_pass ${server.url};
          proxy_http_version 1.1;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection upgrade;
          proxy_set_header Host $host;
        }
      }`, [port]);
    const page = await chromium.newPage();
    await page.goto(origin);
    const due = allowed ? `=== "live"` : `=== "retrying" && document.getElementById("state").textContent.startsWith("lost")`;
    await page.waitForFunction(`document.getElementById("state").className ${due}`);
    console.log(`behind nginx with Host $host, ${allowed ? "with" : "without"} --allow-origin: ${allowed ? "live" : "refused"}`);
    await page.close();
    nginx.end();
    await nginx.exited;
    await server.stop();
  }
}

async function open(url) {
  const page = await chromium.newPage();
  await page.goto(url);
  await page.waitForFunction(`document.getElementById("state").className === "live"`);
  return page;
}

async function say(page, text) {
  await page.fill("#name", "Alice");
  await page.fill("#text", text);
  await page.click("#say button");
}

async function hears(page, text) {
  await page.locator("#log").getByText(text).waitFor();
}

async function lines(page) {
  return page.locator("#log li").count();
}
