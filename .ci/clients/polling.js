// What the checks of short and long polling share. Real clients poll from their own position, through
// cut connections, trimmed messages and restarts, and report every answer.

import {
  FaultProxy, Server, check, cursor, freePort, heads, startChromium, startClient, until,
} from "./kit.js";

export const TOPIC = "ids";

// Checks what one client received. Ids only rise, and every id that is left out belongs to a gap. So no
// message is lost silently or repeated.
export class Poller {
  answers = 0; // pages and 304s
  empty = 0; // answers without a message or a gap
  notModified = 0;
  received = 0;
  named = 0;
  gaps = 0;
  failures = 0;
  broken = [];
  at = undefined; // everything up to here was received or is in a gap

  constructor(name) {
    this.name = name;
  }

  tell = ({ status, page, failure }) => {
    if (failure) return void (this.failures += 1);
    this.answers += 1;
    if (status === 304) this.notModified += 1;
    if (!page || (!page.ids.length && !page.gap)) this.empty += 1;
    if (page?.gap) this.gap(page.gap);
    for (const id of page?.ids ?? []) this.message(id);
  };

  message(id) {
    const { epoch, sequence } = cursor(id);
    // Nothing was trimmed before the first answer, so it begins with the first message.
    const { at = { epoch, sequence: 0 } } = this;
    if (epoch !== at.epoch || sequence !== at.sequence + 1) this.broken.push(`${id} after ${JSON.stringify(at)}`);
    this.received += 1;
    this.at = { epoch, sequence };
  }

  gap({ reason, requested, resumed }) {
    const [from, to] = [this.at, cursor(resumed)];
    const { epoch, sequence } = cursor(requested);
    // With one topic, the requested cursor is the client's position.
    if (from && (epoch !== from.epoch || sequence !== from.sequence)) this.broken.push(`a gap from ${requested}`);
    if ((reason === "trimmed") !== (epoch === to.epoch)) this.broken.push(`${reason} from ${requested} to ${resumed}`);
    this.named += reason === "trimmed" ? to.sequence - sequence : (heads.get(epoch) ?? 0) - sequence + to.sequence;
    this.gaps += 1;
    this.at = to;
  }

  isUpWith({ epoch }) {
    return this.at?.epoch === epoch && this.at.sequence === heads.get(epoch);
  }
}

export async function allUpWith(pollers, server) {
  const behind = () => pollers.filter((poller) => !poller.isUpWith(server));
  await until(() => behind().length === 0, () =>
    `to have the newest, ${heads.get(server.epoch)}: ${behind().map(({ name, at }) => `${name} at ${JSON.stringify(at)}`)}`);
}

// Runs in Node and in a page. Polls until the process or the page ends.
export async function pollWithFetch(url, query, pause, tell) {
  for (let after = "earliest", etag; ; await new Promise((resolve) => setTimeout(resolve, pause))) {
    try {
      const headers = etag ? { "If-None-Match": etag } : {};
      const signal = AbortSignal.timeout(10_000);
      const answer = await fetch(`${url}?after=${after}${query}`, { headers, signal, cache: "no-store" });
      if (answer.status !== 200 && answer.status !== 304) throw answer.status;
      const page = answer.status === 200 ? await answer.json() : undefined;
      etag = answer.headers.get("ETag");
      after = page?.next ?? after;
      tell({ status: answer.status, page: page && { ids: page.messages.map(({ id }) => id), gap: page.gap } });
    } catch (failure) {
      tell({ failure: String(failure) });
    }
  }
}

// The five clients: curl, Node, Python's requests and aiohttp, a page in Chromium.
export async function startPollers(url, query, pause) {
  const seconds = String(pause / 1000);
  const pollers = ["curl", "fetch in Node", "requests", "aiohttp", "fetch in Chromium"].map((name) => new Poller(name));
  const [curl, node, requests, aiohttp, chromium] = pollers;
  startClient("./curl.sh", [url, query, seconds], curl.tell);
  startClient(process.env.PYTHON, ["requests_client.py", url, query, seconds], requests.tell);
  startClient(process.env.PYTHON, ["aiohttp_client.py", url, query, seconds], aiohttp.tell);
  pollWithFetch(url, query, pause, node.tell);
  const browser = await startChromium();
  const page = await browser.newPage();
  await page.goto(new URL("/healthz", url).href); // a page of the same origin that does not poll
  await page.exposeFunction("tellAll", (batch) => batch.forEach(chromium.tell));
  await page.evaluate(`
    const told = [];
    setInterval(() => told.length && tellAll(told.splice(0)), 20);
    (${pollWithFetch})(${JSON.stringify(url)}, ${JSON.stringify(query)}, ${pause}, (heard) => told.push(heard));
    undefined`);
  return pollers;
}

// Publishes `ids` messages over several restarts. Before each restart the clients fall behind what is
// retained, their connections are cut in the middle of answers, and the server takes some messages
// with it. `front` starts a proxy in front of a port and returns its port.
export async function everyId({ ids, restarts, retain, args, query, pause, front }) {
  let server = await Server.start(["--retain", String(retain), "--drain", "1", ...args], await freePort());
  const before = (await front?.(server.port)) ?? server.port;
  const proxy = await FaultProxy.start(before);
  const pollers = await startPollers(`${proxy.url}/topics/${TOPIC}`, query, pause);
  const steps = restarts + 1;
  for (let step = 1; step <= steps; step += 1) {
    const share = Math.floor((ids * step) / steps) - Math.floor((ids * (step - 1)) / steps);
    const first = Math.min(retain, Math.floor(share / 4)); // the first page has to begin with the first message
    await server.publishMany(TOPIC, first);
    await allUpWith(pollers, server);
    await Promise.all([proxy.cut(), server.publishMany(TOPIC, share - first - 1)]);
    await server.publish(TOPIC, "the last before the restart");
    if (step === steps) break;
    server = await server.restart();
  }
  await allUpWith(pollers, server);
  const published = [...heads.values()].reduce((sum, head) => sum + head, 0);
  check(published === ids && heads.size === steps, `${ids} ids of ${steps} epochs, not ${published} of ${heads.size}`);
  for (const poller of pollers) {
    const { name, answers, empty, notModified, received, named, gaps, failures, broken } = poller;
    console.log(`${name}: ${received} received + ${named} named in ${gaps} gaps; ` +
      `${answers} answers, ${empty} empty, ${notModified} × 304; ${failures} lost`);
    check(broken.length === 0, `${name}: ${broken[0]}`);
    check(received + named === ids, `${name}: received = published - named`);
    check(gaps >= restarts, `${name} receives a gap for each restart`);
  }
  await server.stop();
  return pollers;
}
