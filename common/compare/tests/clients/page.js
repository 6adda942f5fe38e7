// The page in a browser: a message arrives through all five, a paused client names what was trimmed,
// clients return to a restarted server, and a small screen shows all of it.

import { Server, check, fitsASmallScreen, startChromium } from "./kit.js";

const LANES = ["short-polling", "long-polling", "webhooks", "websockets", "sse"];

const chromium = await startChromium();
const server = await Server.start();
const page = await chromium.newPage();
const broken = [];
page.on("pageerror", (error) => broken.push(error.message));
await page.goto(server.url);
await page.waitForFunction(`document.querySelectorAll("[data-lane]").length === ${LANES.length}`);
await everyLaneReceives();
await theSliderSetsTheRate();
await aPausedClientNamesWhatWasTrimmed();
await aRestartedServerIsComeBackTo();
await fitsASmallScreen(page);
check(broken.length === 0, `no error in the page: ${broken[0]}`);
await chromium.close();
await server.stop();
process.exit(0);

function cell(lane, name) {
  return page.locator(`[data-lane=${lane}] dd[data-of=${name}]`).innerText();
}

async function every(holds, what, lanes = LANES) {
  let failing = lanes;
  const look = async () => {
    const held = await Promise.all(lanes.map(holds));
    failing = lanes.filter((_, index) => !held[index]);
    return failing.length === 0;
  };
  for (const deadline = Date.now() + 20_000; !(await look()); )
    check(Date.now() < deadline, `${what}: ${failing}`);
}

async function everyLaneReceives() {
  await every(async (lane) => (await page.locator(`[data-lane=${lane}] .state`).innerText()) === "open", "is open", LANES.slice(2));
  await page.click("#publish");
  await every(async (lane) => (await cell(lane, "received")) === "1", "has the message");
  await every(async (lane) => / (µs|ms|s)$/.test(await cell(lane, "latency")), "shows a latency");
  await every(async (lane) => (await cell(lane, "bytes")) !== "0 B", "shows its bytes");
  const latencies = await Promise.all(LANES.map(async (lane) => `${lane} ${await cell(lane, "latency")}`));
  console.log(`one message, five wires: ${latencies.join(", ")}`);
}

async function theSliderSetsTheRate() {
  await page.locator("#rate").fill("20");
  await every(async (lane) => Number(await cell(lane, "received")) > 20, "receives at a rate");
  await page.locator("#rate").fill("0");
}

async function aPausedClientNamesWhatWasTrimmed() {
  const lanes = LANES.filter((lane) => lane !== "webhooks"); // there the sender keeps a queue
  for (const lane of LANES) await page.click(`[data-lane=${lane}] .pause`);
  await every(async (lane) => (await page.locator(`[data-lane=${lane}] .state`).innerText()) === "paused", "is paused");
  const trimmed = page.waitForResponse((answer) => answer.url().endsWith("?count=60"));
  await page.click("#trim");
  await trimmed; // a client that comes back during the burst has a gap, and another one after it
  for (const lane of LANES) await page.click(`[data-lane=${lane}] .pause`);
  await every(async (lane) => (await cell(lane, "gaps")) === "1", "has its gap", lanes);
  const gap = await page.locator("[data-lane=sse] .gap").first().innerText();
  check(/^gap, trimmed: \S+ … \S+$/.test(gap), `the gap is shown, not ${gap}`);
  console.log(`after a burst that trims: ${gap}`);
}

async function aRestartedServerIsComeBackTo() {
  const before = await Promise.all(LANES.map((lane) => cell(lane, "received")));
  for (const lane of LANES) await page.click(`[data-lane=${lane}] .restart`);
  await every(async (lane) => (await page.locator(`[data-lane=${lane}] .gap`).allInnerTexts()).some((text) => text.startsWith("gap, foreign")), "hears of another life");
  await page.click("#publish");
  const more = async (lane) => Number(await cell(lane, "received")) > Number(before[LANES.indexOf(lane)]);
  await every(more, "receives again");
  console.log("every lane is back after a restart, and names the life that ended");
}
