// The page of an example with access control: what a browser sees when it logs in, when it is refused, and when its
// token ends. EXAMPLE is the program, and the argument is what the page listens with.

import readline from "node:readline";
import { check, fitsASmallScreen, start, startChromium } from "./kit.js";

const IN_TIME = { timeout: 30_000 };
const CLOSED = /^closed for good/; // an EventSource does not tell why
// For each way to send the token: what the page shows without a token, without the right, and at the token's end.
const SHOWN = {
  EventSource: { cookie: [CLOSED, CLOSED, CLOSED], ticket: [/^no ticket, 401: there is no token/, CLOSED, CLOSED] },
  fetch: {
    cookie: [/^refused, 401: there is no token/, /^refused, 403: .* topic secret/, /^refused, 401: the token has /],
    header: [/^refused, 401: there is no token/, /^refused, 403: .* topic secret/, /^refused, 401: the token has /],
  },
  WebSocket: {
    cookie: [/^closed, 4401: /, /^closed, 4403: /, /^closed, 4401: /],
    subprotocol: [/^closed, 4401: /, /^closed, 4403: /, /^closed, 4401: /],
    ticket: [/^no ticket, 401: there is no token/, /^closed, 4403: /, /^closed, 4401: /],
  },
}[process.argv[2]];

const { child } = start(process.env.EXAMPLE, ["127.0.0.1:0"]);
const lines = readline.createInterface({ input: child.stdout });
const url = await new Promise((resolve) => lines.on("line", (line) => line.startsWith("listening on ") && resolve(line.split(" ").at(-1))));
const chromium = await startChromium();
const page = await chromium.newPage();
const broken = [];
page.on("pageerror", (error) => broken.push(error.message));
await page.goto(url);
const offered = await page.locator("#listen option").allInnerTexts();
check(`${offered}` === `${Object.keys(SHOWN)}`, `each way is in the list: ${offered}`);
for (const [way, [refused, forbidden, ended]] of Object.entries(SHOWN)) {
  await page.context().clearCookies();
  await page.reload(); // and forgets its token
  await listen("news.a", way);
  await shows(refused);
  await logIn(3600);
  await listen("news.a", way);
  await shows(/^open/);
  await page.getByRole("button", { name: "Publish" }).click();
  await shows(/"data":"hello"/);
  await listen("secret", way);
  await shows(forbidden);
  await logIn(5);
  await listen("news.a", way);
  await shows(/^open/);
  await shows(ended);
  console.log(`${way}: refused, admitted, and ended`);
}
await fitsASmallScreen(page);
check(broken.length === 0, `no error in the page: ${broken[0]}`);
await chromium.close();
process.exit(0);

async function logIn(seconds) {
  await page.getByLabel("Seconds").fill(`${seconds}`);
  await page.getByRole("button", { name: "Log in" }).click();
  await shows(/^logged in as ann/);
}

async function listen(topic, way) {
  await page.getByLabel("Topic", { exact: true }).fill(topic);
  await page.getByLabel("Way").selectOption(way);
  await page.evaluate(`at("log").replaceChildren()`);
  await page.getByRole("button", { name: "Listen" }).click();
}

async function shows(text) {
  const shown = page.locator("#log li");
  await shown.filter({ hasText: text }).first().waitFor(IN_TIME).catch(async () => {
    throw new Error(`${text} is not among ${JSON.stringify(await shown.allInnerTexts())}`);
  });
}
