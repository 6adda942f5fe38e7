// Each proxy in front of each server: what works with the least configuration, and what needs a setting.
// The table "Behind a proxy" of each member is what this prints. It is in the README or in `proxies.md`.

import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { WebSocket } from "ws";
import { Server, check, freePort, start, temporaryFolder, until } from "./kit.js";

// The configurations are in `proxies/`. `{{setting}}` is where a setting goes.
const PROXIES = [
  {
    name: "nginx",
    config: "nginx.conf",
    command: "nginx -c {{config}} -p {{folder}}",
    settings: {
      websockets: 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;',
    },
  },
  {
    name: "HAProxy",
    config: "haproxy.cfg",
    command: "haproxy -db -f {{config}}",
    settings: { "long-polling": "timeout server 60s" },
  },
  {
    name: "Caddy",
    config: "Caddyfile",
    command: "caddy run --adapter caddyfile --config {{config}}",
    settings: {},
  },
  {
    name: "Apache httpd",
    config: "httpd.conf",
    command: "apache2 -DFOREGROUND -d {{folder}} -f {{config}}",
    settings: { websockets: "upgrade=websocket" },
  },
  {
    name: "Varnish",
    config: "varnish.vcl",
    command: "varnishd -F -j none -n {{folder}} -a 127.0.0.1:{{port}} -s malloc,16m -f {{config}}",
    settings: {
      "long-polling": "sub vcl_recv { return (pass); }",
      websockets:
        "sub vcl_recv { if (req.http.Upgrade) { return (pipe); } } " +
        'sub vcl_pipe { set bereq.http.Upgrade = req.http.Upgrade; set bereq.http.Connection = "upgrade"; }',
    },
  },
  {
    name: "lighttpd",
    config: "lighttpd.conf",
    command: "lighttpd -D -f {{config}}",
    settings: {
      sse: "server.stream-response-body = 2",
      websockets: 'proxy.header = ("upgrade" => "enable")',
    },
  },
  {
    name: "Squid",
    config: "squid.conf",
    command: "squid -N -f {{config}}",
    settings: {
      "short-polling": "cache deny all",
      websockets: "http_upgrade_request_protocols websocket allow all",
    },
  },
  {
    name: "H2O",
    config: "h2o.yaml",
    command: "h2o -c {{config}}",
    settings: { "long-polling": "proxy.timeout.io: 60000", websockets: "proxy.websocket: ON" },
  },
  {
    name: "nghttpx",
    config: "nghttpx.conf",
    command: "nghttpx --conf={{config}}",
    settings: {},
  },
];

const MEMBERS = {
  "short-polling": { facts: shortPolling, args: [] },
  "long-polling": { facts: longPolling, args: [] },
  sse: { facts: eventStream, args: ["--max-subscribers", "2", "--heartbeat", "5"] },
  websockets: { facts: webSocket, args: ["--max-subscribers", "2"] },
};
const HEARTBEAT = 5_000; // ms
const AT_ONCE = 4_000; // ms; less than that, because a buffer holds bytes back until more come
const WAIT = 60_000; // ms

async function main() {
  const pairs = Object.keys(MEMBERS).flatMap((member) => PROXIES.map((proxy) => ({ member, proxy })));
  const rows = pairs.flatMap(({ member, proxy }) => {
    const settings = ["", proxy.settings[member]].filter((setting) => setting !== undefined);
    return settings.map((setting) => ({ member, proxy, setting }));
  });
  await Promise.all(rows.map(startProxy));
  await Promise.all(rows.map(examine));
  const differ = Object.keys(MEMBERS).filter((member) => {
    const table = tableOf(rows.filter((row) => row.member === member));
    console.log(`${member}\n${table}`);
    const texts = ["README.md", "proxies.md"].map((name) => path.join(process.env.ROOT, member, name)).filter(existsSync);
    return !texts.some((text) => `${readFileSync(text, "utf8")}\n`.includes(`${table}\n\n`));
  });
  check(differ.length === 0, `each member has its table; other or none: ${differ.join(", ")}`);
}

async function startProxy(row) {
  const { member, proxy, setting } = row;
  const args = ["--drain", "1", ...MEMBERS[member].args];
  row.server = await Server.start(args, await freePort(), path.join(process.env.SERVERS, member));
  row.relay = await Relay.start(row.server.port);
  const folder = temporaryFolder("proxy");
  chmodSync(folder, 0o777); // some proxies change their user
  const values = { port: await freePort(), server: row.relay.port, folder, setting, config: `${folder}/${proxy.config}` };
  const fill = (text) => text.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
  writeFileSync(values.config, fill(readFileSync(`proxies/${proxy.config}`, "utf8")));
  const env = { ...process.env, HOME: folder };
  const [program, ...options] = proxy.command.split(" ").map(fill);
  start(program, options, { env, signal: "SIGTERM", detached: true });
  row.url = `http://127.0.0.1:${values.port}`;
  await until(() => isUp(row.url), () => `${proxy.name} to forward to ${member}`);
}

async function isUp(url) {
  const answer = await fetch(`${url}/healthz`).catch(() => undefined);
  return answer?.ok;
}

// Tries each fact in turn. They build on each other.
async function examine(row) {
  row.holds = {};
  for (const [name, fact] of Object.entries(MEMBERS[row.member].facts(row))) {
    const failure = await fact().then(() => undefined, ({ message }) => message);
    row.holds[name] = failure === undefined;
    if (failure) console.log(`${row.member}, ${row.proxy.name}, ${row.setting ? "set" : "default"}: ${name}: ${failure}`);
  }
}

// The README's table. Proxies that need the same share a line.
function tableOf(rows) {
  const lines = new Map();
  for (const proxy of PROXIES) {
    const cells = cellsOf(...rows.filter((row) => row.proxy === proxy)).join(" | ");
    lines.set(cells, [...(lines.get(cells) ?? []), proxy.name]);
  }
  const head = ["proxy", ...Object.keys(rows[0].holds), "the setting"];
  return [
    `| ${head.join(" | ")} |`,
    `|${" --- |".repeat(head.length)}`,
    ...[...lines].map(([cells, names]) => `| ${names.join(", ")} | ${cells} |`),
  ].join("\n");
}

// What a proxy does without its setting, and with it.
function cellsOf(without, set = without) {
  const cells = Object.entries(without.holds).map(([name, holds]) =>
    holds === set.holds[name] ? (holds ? "✓" : "✗") : holds ? "without" : "set");
  return [...cells, set.setting ? `\`${set.setting.replaceAll("\n", "`, `")}\`` : "none"];
}

function shortPolling({ url, server }) {
  let last;
  const expect = async (status, text, headers) => {
    last = new Answer(`${url}/topics/news`, headers);
    const what = () => `${status} and ${text}, not ${last.status} ${last.text}`;
    await until(() => last.ended && last.status === status && last.text.includes(text), what, AT_ONCE);
  };
  const known = () => ({ "If-None-Match": last.headers.etag });
  return {
    "a page": async () => {
      await server.publish("news", "one");
      await expect(200, '"one"');
    },
    "a 304": () => expect(304, "", known()),
    "a new message": async () => {
      await server.publish("news", "two");
      await expect(200, '"two"', known());
    },
    "the server restarts": async () => {
      const again = await server.restart();
      await again.publish("news", "three");
      await expect(200, '"three"', known());
    },
  };
}

function longPolling({ url, server, relay }) {
  const poll = (base, after, wait, name = "") => new Answer(`${base}/topics/news?after=${after}&wait=${wait}&name=${name}`);
  const empty = ({ ended, status, text }) => ended && status === 200 && text.includes('"messages":[]');
  const arrives = async (name) => {
    await until(() => relay.seen.includes(name), () => `the poll "${name}" to arrive`, AT_ONCE);
    await fetch(`${server.url}/healthz`); // answered after what came before
  };
  const longest = new Answer(`${url}/topics/other?wait=55`);
  return {
    message: async () => {
      const waiting = poll(url, "earliest", 5, "message");
      await arrives("message");
      await server.publish("news", "one");
      await until(() => waiting.text.includes('"one"') && waiting.ended, () => "the message", AT_ONCE);
    },
    "empty wait": async () => {
      const waiting = poll(url, "latest", 1);
      await until(() => empty(waiting), () => "an empty page", 1_000 + AT_ONCE);
    },
    "55 s wait": () => until(() => empty(longest), () => `an empty page, not ${longest.status}`, WAIT),
    "equal polls": async () => {
      const both = [1, 2].map(() => poll(url, "latest", 6, "equal")); // one after the other, they take 12 s
      await until(() => both.every(empty), () => "two empty pages", 6_000 + AT_ONCE);
    },
    drain: async () => {
      const waiting = poll(url, "latest", 50, "drain");
      await arrives("drain");
      await server.stop();
      await until(() => empty(waiting), () => "an empty page", AT_ONCE);
    },
  };
}

function eventStream({ url, server }) {
  return subscriber(server, {
    open: (base) => new Answer(`${(base ?? url)}/topics/news?after=earliest`),
    isOpen: ({ text }) => text.includes(": hello"),
    heartbeat: /^(id: \S+\n\n)+$/,
    isRefused: ({ ended }) => ended,
    isDrained: ({ text, ended }) => ended && /retry: \d+\n\n$/.test(text),
  });
}

function webSocket({ url, server }) {
  return subscriber(server, {
    open: (base) => new Socket(`${(base ?? url).replace("http", "ws")}/topics/news?heartbeat=5`),
    isOpen: ({ text }) => text.includes("subscribed"),
    heartbeat: /^{"heartbeat"/,
    isRefused: ({ closed }) => closed,
    isDrained: ({ closed }) => closed === 1012,
  });
}

// What a stream and a WebSocket have in common. Two of them may be open.
function subscriber(server, { open, isOpen, heartbeat, isRefused, isDrained }) {
  const stays = open();
  const opened = (which) => until(() => isOpen(which), () => "its first bytes", AT_ONCE);
  return {
    "first byte": () => opened(stays),
    message: async () => {
      await server.publish("news", "one");
      await until(() => stays.text.includes('"one"'), () => "the message", AT_ONCE);
    },
    heartbeat: async () => {
      const before = stays.text.length;
      await until(() => heartbeat.test(stays.text.slice(before)), () => "a heartbeat", HEARTBEAT + AT_ONCE);
    },
    "client leaves": async () => {
      const leaves = open();
      await opened(leaves);
      leaves.leave();
      const place = async () => {
        const next = open(server.url);
        await until(() => isOpen(next) || isRefused(next), () => "an answer");
        await until(() => isRefused(next), () => "", 100).catch(() => {}); // a refusal is opened first
        next.leave();
        return !isRefused(next);
      };
      // Some proxies find out when a write fails, which is the second, and end their own request at the third.
      // The server learns at its next write that nobody reads.
      await until(place, () => "the place of one that left", 4 * HEARTBEAT + AT_ONCE);
    },
    drain: async () => {
      await server.stop();
      await until(() => isDrained(stays), () => "the end", AT_ONCE);
    },
  };
}

// Forwards to the server, and keeps what it was asked.
class Relay {
  seen = "";

  static async start(server) {
    const relay = new Relay();
    const listener = net.createServer((from) => {
      const to = net.connect({ port: server, host: "127.0.0.1" });
      from.on("data", (bytes) => (relay.seen += bytes.toString("latin1"))).pipe(to).pipe(from);
      for (const [one, other] of [[from, to], [to, from]]) one.on("error", () => {}).on("close", () => other.destroySoon());
    });
    await new Promise((resolve) => listener.listen(0, "127.0.0.1", resolve));
    relay.port = listener.address().port;
    return relay;
  }
}

class Socket {
  text = "";

  constructor(url) {
    this.socket = new WebSocket(url);
    this.socket.on("message", (frame) => (this.text += frame));
    this.socket.on("error", () => {});
    this.socket.on("close", (code) => (this.closed = code));
  }

  leave() {
    this.socket.terminate();
  }
}

// The answer to a GET on its own connection.
class Answer {
  text = "";
  ended = false;

  constructor(url, headers = {}) {
    this.request = http.get(url, { headers, agent: false });
    this.request.on("error", () => {}).on("response", (response) => {
      Object.assign(this, { status: response.statusCode, headers: response.headers });
      response.setEncoding("utf8").on("data", (text) => (this.text += text)).on("error", () => {});
      response.on("end", () => (this.ended = true));
    });
  }

  leave() {
    this.request.destroy();
  }
}

await main();
process.exit(0);
