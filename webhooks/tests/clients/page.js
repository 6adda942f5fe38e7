// The sender's page in a browser: it shows what each endpoint is owed and why, its buttons do what they say, and
// a small screen shows all of it.

import { createServer } from "node:http";
import { Server, check, fitsASmallScreen, startChromium } from "./kit.js";

const answers = { "/well": 200, "/ill": 500, "/gone": 410 };
const sink = createServer((request, response) => {
  request.resume().on("end", () => response.writeHead(answers[new URL(request.url, "http://sink").pathname]).end());
});
await new Promise((resolve) => sink.listen(0, "127.0.0.1", resolve));
const base = `http://127.0.0.1:${sink.address().port}`;

const chromium = await startChromium();
let server = await Server.start(["--allow-http", "--allow-loopback", "--feed", "file:page.sqlite"]);
const page = await chromium.newPage();
const broken = [];
page.on("pageerror", (error) => broken.push(error.message));
await page.goto(server.url);
await isLiveWith(0);
await aRefusalIsShown();
await whatIsWellIsDelivered();
await whatFailsIsShownWithItsNextAttempt();
await whatIsDeadIsTriedAgain();
await whatIsHeldIsDelivered();
await aButtonOutlivesARefresh();
await aSmallScreenShowsAll();
await aLostServerIsComeBackTo();
check(broken.length === 0, `no error in the page: ${broken[0]}`);
await chromium.close();
await server.stop();
process.exit(0);

function item(path) {
  return page.locator("#endpoints > li").filter({ has: page.locator("b", { hasText: `${base}${path}` }) });
}

async function shows(path, ...patterns) {
  for (const pattern of patterns) await item(path).getByText(pattern).first().waitFor();
}

async function stateIs(pattern) {
  await page.locator("#state").getByText(pattern).waitFor();
}

async function isLiveWith(endpoints) {
  await stateIs(/^live$/);
  await page.locator("#count").getByText(`Registered: ${endpoints}`).waitFor();
}

async function register(path, topic) {
  await page.fill("#register [aria-label='Topics of the endpoint']", topic);
  await page.fill("#register [type=url]", base + path);
  await page.click("#register button");
}

async function publish(topic, text) {
  await page.fill("#publish [aria-label=Topic]", topic);
  await page.fill("#publish [aria-label=Message]", text);
  await page.click("#publish button");
  await page.locator("#note").getByText(/^Published as /).waitFor();
}

async function aRefusalIsShown() {
  await page.fill("#register [type=url]", "http://10.0.0.1/");
  await page.click("#register button");
  await page.locator("#note").getByText(/^Not registered: url: .*--allow-private/).waitFor();
}

async function whatIsWellIsDelivered() {
  await register("/well", "a,b");
  await page.locator("#note").getByText(/^Its secret, shown this once: whsec_\S{44}$/).waitFor();
  await publish("b", "hello");
  await shows("/well", "a, b", /^1 delivered · 0 in flight · 0 waiting · 0 dead$/, /attempt 1: 200 in \d+ ms$/);
  await page.locator("#says").getByText("200").waitFor();
  await page.locator("#wire").getByText(`POST ${base}/well`).waitFor();
  console.log("an endpoint is registered, its secret shown once, and the first delivery with its status");
}

async function whatFailsIsShownWithItsNextAttempt() {
  await register("/ill", "ill");
  await publish("ill", "hello");
  const due = /^0 delivered · 0 in flight · 1 waiting, the oldest due at \d+:\d\d:\d\d.* · 0 dead$/;
  await shows("/ill", due, "Last error: answered 500 Internal Server Error", /attempt 1: 500 in \d+ ms, again at \d+:/);
  console.log("a failure is shown with its reason, what waits, and when the oldest is due");
}

async function whatIsDeadIsTriedAgain() {
  await register("/gone", "gone");
  await publish("gone", "hello");
  await shows("/gone", / · 1 dead$/, /^Not called since .*: answered 410 Gone$/, /^Dead: \S+ after 1 attempts, answered 410 Gone/);
  answers["/gone"] = 204;
  await item("/gone").getByRole("button", { name: "Enable" }).click();
  await item("/gone").getByText(/^Not called since/).waitFor({ state: "detached" });
  await item("/gone").getByRole("button", { name: "Retry" }).click();
  await shows("/gone", /^1 delivered · .* · 0 dead$/, /attempt 1: 204 in \d+ ms$/);
  check((await item("/gone").getByRole("button", { name: "Retry" }).count()) === 0, "nothing is dead any more");
  console.log("a dead letter is listed with its reason, and delivered after Enable and Retry");
}

async function whatIsHeldIsDelivered() {
  answers["/gone"] = 410;
  await publish("gone", "one");
  await shows("/gone", /^Not called since .*: answered 410 Gone$/);
  await publish("gone", "two");
  await publish("gone", "three");
  answers["/gone"] = 200;
  await item("/gone").getByRole("button", { name: "Enable" }).click();
  await shows("/gone", /^3 delivered · 0 in flight · 0 waiting · 1 dead$/);
  console.log("what is published for an endpoint that is not called is delivered after Enable");
}

async function aButtonOutlivesARefresh() {
  const button = await item("/gone").getByRole("button", { name: "Retry" }).elementHandle();
  for (let refreshes = 0; refreshes < 2; refreshes += 1)
    await page.waitForResponse((answer) => answer.url() === `${server.url}/endpoints`);
  check(await button.evaluate((element) => element.isConnected), "a button stays where it is");
  await button.press("Enter");
  await shows("/gone", /^4 delivered · .* · 0 dead$/);
  await item("/gone").getByRole("button", { name: "Remove" }).click();
  await item("/gone").waitFor({ state: "detached" });
  await isLiveWith(2);
}

async function aSmallScreenShowsAll() {
  await register(`/well?${"a-long-word".repeat(40)}`, "a");
  await isLiveWith(3);
  await fitsASmallScreen(page);
}

async function aLostServerIsComeBackTo() {
  const { port, args } = server;
  await server.stop();
  await stateIs(/^lost, back in \d+ s$/);
  server = await Server.start(args, port);
  await isLiveWith(3);
  await shows("/ill", / · 1 waiting, the oldest due at /);
  console.log("a server that was away is come back to, and shows what it still owes");
}
