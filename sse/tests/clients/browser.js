// What only a browser shows: which handlers fire, whether a reconnect asks for permission first, and
// how many streams a page may have.

import { execFileSync } from "node:child_process";
import path from "node:path";
import {
  FaultProxy, Listener, Server, allUpWith, check, checkAllHold, freePort, listenInPage,
  startChromium, startNginx,
} from "./kit.js";

const STREAMS = 20;
const TYPES = ["gap", "error", "open", "heartbeat", "message"];

const chromium = await startChromium();
await everyTypeIsAMessage();
await noPreflight();
await quotes();
await manyStreams();
await chromium.close();
process.exit(0);

// A message of type `gap` or `error` must not pass for an event of the server's, or the browser's.
async function everyTypeIsAMessage() {
  const server = await Server.start();
  const page = await chromium.newPage();
  await page.goto(`${server.url}/healthz`);
  await page.evaluate(`
    fired = [];
    const source = new EventSource("/topics/any?after=earliest");
    for (const name of ${JSON.stringify(TYPES)})
      source.addEventListener(name, (event) => fired.push([name, event.data && JSON.parse(event.data).type]));
    undefined`);
  for (const type of TYPES) await server.publish("any", "text", type);
  await page.waitForFunction(`fired.some(([, type]) => type === "message")`);
  const fired = JSON.stringify(await page.evaluate("fired"));
  const expected = JSON.stringify([["open", null], ...TYPES.map((type) => ["message", type])]);
  check(fired === expected, `messages fire ${expected}, not ${fired}`);
  console.log(`messages of types ${TYPES.join(", ")}: each at onmessage, nothing else fires`);
  await page.close();
  await server.stop();
}

// Last-Event-ID is a field that a page may not set without asking, but the browser itself may.
async function noPreflight() {
  const ours = await FaultProxy.start();
  const foreign = await FaultProxy.start();
  const server = await Server.start(["--allow-origin", foreign.url, "--retry", "0.1"]);
  ours.port = foreign.port = server.port;
  const page = await chromium.newPage();
  await page.goto(`${foreign.url}/healthz`);
  const listener = new Listener("a page of another origin");
  await listenInPage(page, `${ours.url}/topics/news?after=earliest`, listener.tell);
  for (let round = 0; round < 4; round += 1) {
    await server.publish("news", `round ${round}`);
    await allUpWith([listener], server);
    if (round < 3) await ours.cut();
  }
  checkAllHold([listener]);
  const sent = (pattern) => ours.requests.filter((head) => pattern.test(head)).length;
  const resumed = sent(/^GET [^]*\r\nlast-event-id: /i);
  check(resumed >= 3, `3 reconnects send Last-Event-ID, not ${resumed}`);
  check(sent(/^OPTIONS /) === 0, "an EventSource makes no preflight");
  // The proxy does see a preflight where there is one.
  const headers = `{ headers: { "Last-Event-ID": "a-1" }, method: "HEAD" }`;
  await page.evaluate(`fetch("${ours.url}/topics/news", ${headers}).then(() => {})`);
  check(sent(/^OPTIONS /) === 1, "a fetch with Last-Event-ID makes a preflight");
  console.log(`cross-origin: ${resumed} reconnects with Last-Event-ID, 0 preflights (a fetch made 1)`);
  await page.close();
  await server.stop();
}

// The page shows the current quote when it opens, and no backlog.
async function quotes() {
  const server = await Server.start();
  const quote = (price) => fetch(`${server.url}/topics/quotes`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ symbol: "ACME", price }),
  });
  for (const price of [1, 2, 3]) await quote(price);
  const page = await chromium.newPage();
  await page.goto(server.url);
  const shows = (price, points) => page.waitForFunction(`
    document.getElementById("quotes").textContent === "ACME${price}.00" &&
    document.querySelector("#chart polyline").getAttribute("points").split(" ").length === ${points} &&
    document.getElementById("state").className === "live"`);
  await shows(3, 1);
  await quote(4);
  await shows(4, 2);
  console.log("the page: the newest of 3 quotes when it opens, then each");
  await page.close();
  await server.stop();
}

// HTTP/1.1 lets a page have six connections to a host; over HTTP/2 they share one.
async function manyStreams() {
  const server = await Server.start();
  const [plain, secure] = [await freePort(), await freePort()];
  const nginx = await startNginx(
    (folder) => `
      server { listen 127.0.0.1:${plain}; location / { proxy_pass ${server.url}; } }
      server {
        listen 127.0.0.1:${secure} ssl http2;
        ssl_certificate ${selfSigned(folder)};
        ssl_certificate_key ${folder}/key.pem;
        location / {
          proxy_pass ${server.url};
          proxy_set_header Host $http_host;
        }
      }`,
    [plain, secure],
  );
  const over1 = await streams(`http://127.0.0.1:${plain}`, server, 6);
  const over2 = await streams(`https://127.0.0.1:${secure}`, server, STREAMS);
  check(over2.protocol === "h2", `the page came over HTTP/2, not ${over2.protocol}`);
  check(over2.heard === STREAMS, `all of ${STREAMS} streams of a page hear, not ${over2.heard}`);
  for (const { protocol, open, heard } of [over1, over2])
    console.log(`${protocol}: of ${STREAMS} EventSources in a page ${open} are open, ${heard} heard the message`);
  nginx.end();
  await server.stop();
}

// Opens the streams, waits for as many as are expected to open, and publishes.
async function streams(url, server, expected) {
  const context = await chromium.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.goto(`${url}/healthz`);
  await page.evaluate(`
    heard = 0;
    sources = Array.from({ length: ${STREAMS} }, () => new EventSource("/topics/many"));
    for (const source of sources) source.onmessage = () => (heard += 1);
    isOpen = ({ readyState }) => readyState === EventSource.OPEN;
    undefined`);
  await page.waitForFunction(`sources.filter(isOpen).length === ${expected}`);
  await server.publish("many", "to all");
  await page.waitForFunction(`heard === ${expected}`);
  const figures = await page.evaluate(`({
    heard,
    open: sources.filter(isOpen).length,
    protocol: performance.getEntriesByType("navigation")[0].nextHopProtocol,
  })`);
  await context.close();
  return figures;
}

function selfSigned(folder) {
  const [key, certificate] = ["key.pem", "certificate.pem"].map((name) => path.join(folder, name));
  const request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1".split(" ");
  const files = ["-keyout", key, "-out", certificate];
  execFileSync("openssl", [...request, ...files], { stdio: "pipe" });
  return certificate;
}
