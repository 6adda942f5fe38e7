// The page in a browser: each technique draws its own arrows, the lists say the same, each button changes what is
// drawn, and a small screen shows all of it.

import { Server, check, fitsASmallScreen, startChromium, until } from "./kit.js";

// What each technique draws for a message, in this order.
const ARROWS = {
  "short-polling": ["news?", "here it is"],
  "long-polling": ["news?", "here it is"],
  webhooks: ["POST", "200 OK"],
  websockets: ["message", "got it"],
  sse: ["event"],
};
const LANES = Object.keys(ARROWS);

const chromium = await startChromium();
const server = await Server.start();
const page = await chromium.newPage();
const broken = [];
page.on("pageerror", (error) => broken.push(error.message));
await page.goto(server.url);
await itMovesWhenItOpens();
await eachListSaysWhatIsDrawn();
await theBytesOfAnArrowAreShown();
await page.selectOption("#rate", "0");
await aPausedClientNamesWhatWasTrimmed();
await aCutNetworkRefuses();
await aSlowReaderHasALongArrow();
await aRestartedServerIsComeBackTo();
await fitsASmallScreen(page);
check(broken.length === 0, `no error in the page: ${broken[0]}`);
await chromium.close();
await server.stop();
process.exit(0);

// The words of the arrows in a lane, from top to bottom. An arrow with news has its number.
function arrows(lane) {
  return page.locator(`[data-lane=${lane}] .arrow`).evaluateAll((all) =>
    all.map(({ dataset }) => (dataset.news ? `${dataset.words} · ${dataset.news}` : dataset.words)));
}

// Waits until each lane has held once: what was drawn leaves the diagram again.
async function every(holds, what, lanes = LANES) {
  let failing = lanes;
  await until(async () => {
    const held = await Promise.all(failing.map(holds));
    failing = failing.filter((_, index) => !held[index]);
    return failing.length === 0;
  }, () => `${what}: ${failing}`);
}

function has(selector) {
  return async (lane) => (await page.locator(`[data-lane=${lane}] ${selector}`).count()) > 0;
}

function stateIs(state) {
  return has(`.state[data-state="${state}"]`);
}

function press(name) {
  return page.getByRole("button", { name }).click();
}

async function itMovesWhenItOpens() {
  await every(async (lane) => {
    const drawn = (await arrows(lane)).map((words) => words.replace(/ · .*/, ""));
    const [first, second] = ARROWS[lane];
    return drawn.some((words, at) => words === first && (!second || drawn[at + 1] === second));
  }, "draws its arrows");
  await every(stateIs("live"), "is live");
  await every(async (lane) => / m?s$/.test(await page.locator(`[data-lane=${lane}] [data-of=delay]`).innerText()), "shows its delay");
  const delays = await Promise.all(LANES.map(async (lane) => `${lane} ${await page.locator(`[data-lane=${lane}] [data-of=delay]`).innerText()}`));
  console.log(`one message, five wires: ${delays.join(", ")}`);
  // A message has the same colour everywhere.
  const news = page.locator(".arrow[data-news]");
  const colours = await news.evaluateAll((all) => all.map((arrow) => `${arrow.dataset.news}: ${arrow.style.color}`));
  const numbers = new Set(colours.map((text) => text.split(":")[0]));
  check(new Set(colours).size === numbers.size, `each message has one colour: ${[...new Set(colours)]}`);
}

async function eachListSaysWhatIsDrawn() {
  await every(async (lane) => {
    const drawn = (await arrows(lane)).slice(-3).reverse();
    const listed = await page.locator(`[data-lane=${lane}] li button`).evaluateAll((all) =>
      all.map(({ textContent }) => textContent).filter((text) => text.includes("→")).map((text) => text.replace(/^.*: /, "")));
    return drawn.length === 3 && drawn.every((words, at) => listed[at] === words);
  }, "lists what it draws");
  console.log("each list says what its diagram shows");
}

async function theBytesOfAnArrowAreShown() {
  // With the keyboard; with the pointer, the diagram also stops.
  await page.locator("[data-lane=sse] summary").press("Enter");
  await page.locator("[data-lane=sse] li button", { hasText: "event" }).first().focus();
  await until(async () => /"number":\d+/.test(await page.locator("#bytes").innerText()), () => "the bytes of a listed event");
  await page.locator("[data-lane=sse] summary").press("Enter");
  await page.locator("[data-lane=websockets] .diagram").hover();
  const layer = page.locator("[data-lane=websockets] .arrows");
  const before = await layer.evaluate(({ style }) => style.transform);
  await page.locator("[data-lane=websockets] .arrow[data-news] .touch").last().hover({ force: true });
  await until(async () => (await page.locator("#bytes").innerText()).includes('{"message":{'), () => "the bytes of an arrow");
  check((await layer.evaluate(({ style }) => style.transform)) === before, "a diagram stands still under the pointer");
  await page.mouse.move(0, 0);
  await until(async () => (await layer.evaluate(({ style }) => style.transform)) !== before, () => "the diagram to go on");
  console.log("an arrow, and an item of a list, shows its bytes");
}

async function aPausedClientNamesWhatWasTrimmed() {
  const lanes = LANES.filter((lane) => lane !== "webhooks"); // there the sender keeps a queue
  await press("Pause client");
  await every(stateIs("paused"), "is paused");
  const burst = page.waitForResponse((answer) => answer.url().endsWith("?count=60"));
  await press("Burst of 60");
  await burst; // a client that comes back during the burst has a gap, and another one after it
  await press("Pause client");
  await every(has(".gap[data-reason=trimmed]"), "draws its gap", lanes);
  await every(stateIs("live"), "is live again");
  check(!(await has(".gap[data-reason=trimmed]")("webhooks")), "webhooks have no gap");
  console.log(`after a burst that trims: ${await page.locator("[data-lane=sse] .gap").first().textContent()}`);
}

async function aCutNetworkRefuses() {
  await page.selectOption("#lane", "long-polling");
  await press("Cut network");
  await every(stateIs("cut off"), "is cut off", ["long-polling"]);
  await every(has(".arrow.failed"), "is refused", ["long-polling"]);
  check(!(await stateIs("cut off")("sse")), "only the one that was chosen");
  await press("Cut network");
  await every(stateIs("live"), "is live again");
}

async function aSlowReaderHasALongArrow() {
  await page.selectOption("#lane", "sse");
  await press("Slow reader");
  await every(stateIs("slow"), "is slow", ["sse"]);
  await page.click("#publish");
  const slope = () => page.locator("[data-lane=sse] .arrow line:first-child").evaluateAll((lines) =>
    Math.max(...lines.map((line) => line.y2.baseVal.value - line.y1.baseVal.value)));
  await until(async () => (await slope()) > 100, () => "an arrow that takes its time");
  await press("Slow reader");
  await page.selectOption("#lane", "");
}

async function aRestartedServerIsComeBackTo() {
  await press("Restart server");
  await every(stateIs("restarting"), "restarts");
  await every(has(".gap[data-reason=foreign]"), "draws that its feed is new");
  await every(stateIs("live"), "is live again");
  const number = await page.evaluate("[...published.keys()].at(-1)");
  await page.click("#publish");
  // In the list: so soon after the refused connections there may be no room for its arrow.
  await every(has(`li:has-text("· ${number + 1}")`), "lists the next message");
  console.log("every client is back after a restart, and names the feed that ended");
}
