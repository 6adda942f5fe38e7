// What the sender signs, verified by npm's and PyPI's `standardwebhooks`: bodies of real and of hostile shape,
// before a rotation of the secret and in its overlap. Nothing that was tampered with verifies.
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";
import { Webhook, WebhookVerificationError } from "standardwebhooks";
import { Server, check, startClient, until } from "./kit.js";

const LARGEST = 65_536;
const JSON_BODIES = {
  "a payment": '{"status":"success","payment":"pay_1","amount":1999}',
  "letters of many bytes": '"Привет, 世界, 🦀 \u2028\u2029 e\u0301"',
  "escapes": String.raw`{"\u0000":"\ud83e\udd80\/\b\f\n\r\t\"\\","\u00e9":"é"}`,
  "numbers beyond a double": "[12345678901234567890123456789,1e300,-0,0.1000000000000000055511151231257827,1E-7]",
  "spaces and a name twice": '{ "a" : 1 ,\t"a": 2 }',
  "much nesting": "[".repeat(64) + "]".repeat(64),
  "dots, commas and what looks signed": '"v1,AAAA= v1a,B.C.D whsec_ 1700000000."',
  "next to nothing": "null",
  "as long as may be": `"${"é".repeat((LARGEST - 2) / 2)}"`,
};
const TEXTS = { "a text": 'say "hello"\r\n\tto\u0000 🦀' };

const secret = () => `whsec_${randomBytes(32).toString("base64")}`;
const [OLD, NEW] = [secret(), secret()];
const LANGUAGES = ["npm", "PyPI"];
const heard = { npm: [], PyPI: [] }; // { id, body, verified: indexes of secrets, tampered: how many verify }
const urls = {};

startNode();
startClient(process.env.PYTHON, ["receivers.py", OLD, NEW], (line) => {
  if (line.url) urls.PyPI = line.url;
  else heard.PyPI.push(line);
});
await until(() => LANGUAGES.every((language) => urls[language]), () => "both to listen");
const server = await Server.start(["--allow-http", "--allow-loopback"]);
const endpoints = {};
for (const language of LANGUAGES)
  endpoints[language] = await post("/endpoints", JSON.stringify({ url: urls[language], topics: ["t"], secret: OLD }));

await turn("with one secret", [0]);
for (const { id } of Object.values(endpoints)) await post(`/endpoints/${id}/rotate`, JSON.stringify({ secret: NEW }));
await turn("after a rotation, with the old one and the new one", [0, 1]);
await server.stop();
process.exit(0);

// Publishes every body: each receiver has to get each, and verify it with these secrets and no other.
async function turn(what, secrets) {
  const published = new Map();
  for (const [name, body] of Object.entries(JSON_BODIES)) published.set((await post("/topics/t", body)).id, { name, data: body });
  for (const [name, text] of Object.entries(TEXTS))
    published.set((await post("/topics/t", text, "text/plain")).id, { name, text });
  for (const language of LANGUAGES) {
    const of = (id) => heard[language].filter((one) => one.id === id);
    const left = () => [...published.keys()].filter((id) => of(id).length === 0);
    await until(() => left().length === 0, () => `${language} to get ${left().map((id) => published.get(id).name)}`);
    for (const [id, { name, data, text }] of published) {
      const [{ body, verified, tampered }, ...more] = of(id);
      check(more.length === 0, `${language} gets ${name} once`);
      check(`${verified}` === `${secrets}`, `${language} verifies ${name} with ${secrets}, not with ${verified}`);
      check(tampered === 0, `${language} verifies ${name} though it was tampered with`);
      check(data === undefined || body.endsWith(`,"data":${data}}`), `${name} is byte for byte as it was published`);
      check(text === undefined || JSON.parse(body).data === text, `${name} is as it was published`);
    }
  }
  console.log(`${published.size} bodies verified by ${LANGUAGES.join(" and ")} ${what}; 0 of ${3 * published.size} tampered ones by either`);
}

async function post(path, body, type = "application/json") {
  const answer = await fetch(server.url + path, { method: "POST", body, headers: { "Content-Type": type } });
  const text = await answer.text();
  check(answer.ok, `${path} takes ${body.slice(0, 100)}: ${text}`);
  return JSON.parse(text);
}

// What receivers.py is too.
function startNode() {
  const listener = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const verifies = (secret, body, fields = {}) => {
      try {
        new Webhook(secret).verify(body, { ...request.headers, ...fields }, { jsonParse: false });
        return true;
      } catch (error) {
        check(error instanceof WebhookVerificationError, `npm refuses it and does not fail: ${error}`);
        return false;
      }
    };
    const { "webhook-id": id, "webhook-timestamp": time } = request.headers;
    const changed = Buffer.from(body);
    changed[changed.length - 2] ^= 1;
    const tampered = [[changed], [body, { "webhook-id": `${id}0` }], [body, { "webhook-timestamp": `${Number(time) - 1}` }]];
    heard.npm.push({
      id,
      body: body.toString(),
      verified: [0, 1].filter((index) => verifies([OLD, NEW][index], body)),
      tampered: tampered.filter((one) => verifies(OLD, ...one) || verifies(NEW, ...one)).length,
    });
    response.end();
  });
  listener.listen(0, "127.0.0.1", () => (urls.npm = `http://127.0.0.1:${listener.address().port}/webhook`));
}
