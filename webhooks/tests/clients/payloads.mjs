// The payloads that GitHub's own package publishes as examples, signed by its other package, as JSON and as a form:
// the receiver takes each, and lists it as it was.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { sign } from '@octokit/webhooks-methods';

const definitions = createRequire(import.meta.url)('@octokit/webhooks-examples');
const SECRET = "It's a Secret to Everybody";
const receiver = spawn(process.env.RECEIVER, ['--listen', '127.0.0.1:0', '--inbox', 'payloads.sqlite'],
  { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, GITHUB_WEBHOOK_SECRET: SECRET } });
const [line] = await once(createInterface(receiver.stdout), 'line');
const base = line.replace('listening on ', '');

const sent = [];
for (const { name, examples } of definitions) {
  for (const payload of examples) {
    const isForm = sent.length % 2 === 1;
    const json = JSON.stringify(payload);
    const body = isForm ? new URLSearchParams({ payload: json }).toString() : json;
    const headers = {
      'Content-Type': isForm ? 'application/x-www-form-urlencoded' : 'application/json',
      'X-GitHub-Event': name, 'X-GitHub-Delivery': `example-${sent.length}`, 'X-Hub-Signature-256': await sign(SECRET, body),
    };
    const { status } = await fetch(`${base}/webhook/github`, { method: 'POST', body, headers });
    assert.equal(status, 200, `${name}: ${json.slice(0, 200)}`);
    sent.push({ type: payload.action ? `${name}.${payload.action}` : name, payload });
  }
}
assert.ok(sent.length > 250, `${sent.length} examples`);

let [listed, after] = [[], 0];
for (let more = true; more; ) {
  const page = await (await fetch(`${base}/events?after=${after}`)).json();
  listed.push(...page.events);
  [after, more] = [page.next, page.more];
}
assert.deepEqual(listed.map(({ type, payload }) => ({ type, payload })), sent);
console.log(`${sent.length} published examples of ${definitions.length} events of GitHub, each stored as it was`);
receiver.kill('SIGTERM');
assert.equal((await once(receiver, 'exit'))[0], 0);
