// Each client publishes and hears, with a subprotocol and without; is closed with 1009 for a message that
// is too big; stays connected through a silence, while both sides demand pongs; and is told by 1012 that
// the server drains. Each time its own library calls the close clean.

import { startOnEach } from "./clients.js";
import { Firefox, Server, check, pause, until } from "./kit.js";

const SILENCE = 4_000; // ms; longer than two pings and their deadlines, of either side

const firefox = await Firefox.start();
const server = await Server.start(["--ping", "1", "--allow-origin", firefox.origin]);
const heard = {};
const told = (name) => (event) => (heard[name] ??= []).push(event);
const clients = await startOnEach(talk, `${server.url}/topics/talk`, firefox, told);

const FIRST = ["open", "ack", "pong", "closed 1009 clean"];
const SECOND = ["open feed.v1.json", "ack", "pong"];
const say = () => `to talk: ${JSON.stringify(heard)}`;
await until(() => clients.every((name) => heard[name]?.length >= FIRST.length + SECOND.length), say);
await pause(SILENCE);
await server.stop();
const all = [...FIRST, ...SECOND, "closed 1012 clean"];
await until(() => clients.every((name) => heard[name].length >= all.length), say);
for (const name of clients) check(`${heard[name]}` === `${all}`, `${name} hears ${all}, not ${heard[name]}`);
console.log(`${clients.join(", ")}: ${all.join(", ")}`);
process.exit(0);

function talk(WebSocket, url, tell) {
  const session = (protocols, onPong, onClose) => {
    const socket = new WebSocket(url, protocols);
    const on = {
      ack: () => socket.send(`{"ping":{}}`),
      pong: () => onPong?.(socket),
    };
    socket.onopen = () => {
      tell(`open ${protocols}`.trim());
      socket.send(`{"publish":{"topic":"talk","data":1,"ref":1}}`);
    };
    socket.onmessage = ({ data }) => {
      const [name] = Object.keys(JSON.parse(data));
      if (name in on) tell(name);
      on[name]?.();
    };
    socket.onclose = ({ code, wasClean }) => {
      tell(`closed ${code} ${wasClean ? "clean" : "not clean"}`);
      onClose?.();
    };
  };
  session([], (socket) => socket.send("x".repeat(70_000)), () => session(["feed.v1.json"]));
}
