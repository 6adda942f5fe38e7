// A member's page, loaded again and again in one tab, as people do who follow links and come back. The
// pages that were left stay in the browser's back/forward cache. If they kept their connections, the
// seventh load would wait: a browser has six connections per host.

import { Server, check, startChromium } from "./kit.js";

const LOADS = 9;
const IN_TIME = { timeout: 10_000 };
// The topic whose messages the page shows. The pages of webhooks show none.
const TOPIC = process.argv[2];

// Playwright would turn the cache off.
const chromium = await startChromium({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });
const server = await Server.start(process.argv.slice(3));
const page = await chromium.newPage();
if (TOPIC) await server.publish(TOPIC, "there already"); // a long poll is answered at once
for (let load = 1; load <= LOADS; load += 1) {
  await page.goto(`${server.url}/?load=${load}`, IN_TIME);
  await live();
}
await itShowsItsScene();
console.log(`the page loads ${LOADS} times in one tab`);
await aPageThatIsShownAgainResumes();
await chromium.close();
await server.stop();
process.exit(0);

async function aPageThatIsShownAgainResumes() {
  await page.evaluate(`document.getElementById("state").dataset.kept = ""`);
  await page.goto(`${server.url}/healthz`, IN_TIME);
  if (TOPIC) await server.publish(TOPIC, "said while it was away");
  await page.evaluate("history.back()");
  await page.waitForFunction(`document.querySelector("[data-kept]")`, null, IN_TIME); // it was not loaded again
  await live();
  if (TOPIC) {
    await page.locator("#log").getByText("said while it was away").waitFor(IN_TIME);
    check((await page.locator("#log").getByText("there already").count()) === 1, "what it showed before is not shown again");
  }
  console.log("a page that is shown again resumes where it was");
}

// The words of the technique, which the server's or the client's half says, and the last exchange.
async function itShowsItsScene() {
  if (!TOPIC) return;
  await page.locator(".scene").getByText(process.env.SCENE).waitFor(IN_TIME);
  await page.locator("#wire").getByText("there already").waitFor(IN_TIME);
}

// Each page says in the same words whether it is connected.
async function live() {
  await page.waitForFunction(`document.querySelector("#state.live")?.textContent === "live"`, null, IN_TIME);
}
