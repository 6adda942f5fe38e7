// The two examples of `verify` in other servers, with requests that the vendors' packages have signed.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { sign } from '@octokit/webhooks-methods';
import Stripe from 'stripe';

const SECRET = 'whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH';
const payload = readFileSync('push.json', 'utf8');
const stripe = new Stripe('sk_test_x').webhooks;
for (const [example, variable, path, headers] of [
  ['verify_in_hyper', 'GITHUB_WEBHOOK_SECRET', '/', { 'X-Hub-Signature-256': await sign(SECRET, payload) }],
  ['verify_in_axum', 'STRIPE_WEBHOOK_SECRET', '/webhook/stripe',
    { 'Stripe-Signature': stripe.generateTestHeaderString({ payload, secret: SECRET }) }],
]) {
  // The first secret is the one that was in use before a rotation.
  const server = spawn('sh', ['-c', 'ulimit -n 16; exec "$0" 127.0.0.1:0', `${process.env.EXAMPLES}/${example}`],
    { stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, [variable]: `whsec_old\n${SECRET}` } });
  const [line] = await once(createInterface(server.stdout), 'line');
  const url = line.replace('listening on ', '') + path;
  const post = async (body, fields) => (await fetch(url, { method: 'POST', body, headers: fields })).status;
  assert.equal(await post(payload, headers), 200, example);
  assert.equal(await post(payload + ' ', headers), 401, `${example}, with a byte more`);
  assert.equal(await post(payload, {}), 401, `${example}, unsigned`);
  // More connections than descriptors: the server pauses, and goes on when some have ended.
  const { hostname, port } = new URL(url);
  const crowd = Array.from({ length: 30 }, () => connect(port, hostname));
  await Promise.all(crowd.map((socket) => once(socket, 'connect')));
  const waiting = post(payload, headers);
  for (const socket of crowd) socket.destroy();
  assert.equal(await waiting, 200, `${example}, after a crowd`);
  assert.equal(server.exitCode, null, `${example} goes on`);
  server.kill();
  await once(server, 'exit');
}
console.log('both examples verify what the packages of npm sign, and nothing else');
