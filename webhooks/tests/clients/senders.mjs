// Requests that the vendors' npm packages have signed, and what the receiver says to each. With FRONT they go
// to the proxy there, which passes them on to LISTEN.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import { sign } from '@octokit/webhooks-methods';
import { Webhook } from 'standardwebhooks';
import Stripe from 'stripe';

const [STANDARD, STRIPE, GITHUB] = ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH', "It's a Secret to Everybody"];
const TELEGRAM = 'AbC_-123';
const { RECEIVER, FRONT, LISTEN = '127.0.0.1:0' } = process.env;
const receiver = spawn(RECEIVER, ['--listen', LISTEN, '--inbox', FRONT ? 'nginx.sqlite' : 'npm.sqlite', '--secret', STANDARD,
  '--stripe-secret', STRIPE, '--github-secret', GITHUB, '--telegram-secret', TELEGRAM], { stdio: ['ignore', 'pipe', 'inherit'] });
const [line] = await once(createInterface(receiver.stdout), 'line');
const base = line.replace('listening on ', '');
const body = (name) => readFileSync(`${name}.json`, 'utf8');
const JSON_TYPE = 'application/json', FORM = 'application/x-www-form-urlencoded';
const form = new URLSearchParams({ payload: body('ping') }).toString();
const github = async (event, id, payload) =>
  ({ 'X-GitHub-Event': event, 'X-GitHub-Delivery': id, 'X-Hub-Signature-256': await sign(GITHUB, payload) });
const now = new Date();

const requests = [
  ['', JSON_TYPE, body('payment_intent.succeeded'), { 'webhook-id': 'msg_npm', 'webhook-timestamp': String(Math.floor(now / 1000)),
    'webhook-signature': new Webhook(STANDARD).sign('msg_npm', now, body('payment_intent.succeeded')) }],
  ['/stripe', JSON_TYPE, body('payment_intent.succeeded'),
    { 'Stripe-Signature': new Stripe('sk_test_x').webhooks.generateTestHeaderString({ payload: body('payment_intent.succeeded'), secret: STRIPE }) }],
  ['/github', JSON_TYPE, body('push'), await github('push', 'npm-1', body('push'))],
  ['/github', FORM, form, await github('ping', 'npm-2', form)],
  ['/telegram', JSON_TYPE, body('update'), { 'X-Telegram-Bot-Api-Secret-Token': TELEGRAM }],
];
for (const [path, type, payload, headers] of requests) {
  const post = (text) => fetch(`${FRONT ?? base}/webhook${path}`, { method: 'POST', body: text, headers: { 'Content-Type': type, ...headers } });
  assert.equal((await post(payload)).status, 200, path);
  assert.equal((await post(payload)).status, 200, `${path} again`);
  if (path !== '/telegram') assert.equal((await post(payload + ' ')).status, 401, `${path} with a byte more`);
}
const { events } = await (await fetch(`${base}/events`)).json();
assert.deepEqual(events.map(({ source, type }) => `${source} ${type}`),
  ['standard payment_intent.succeeded', 'stripe payment_intent.succeeded', 'github push', 'github ping', 'telegram message']);
console.log(`${requests.length} requests of npm's packages verified${FRONT ? ' behind nginx' : ''}, each stored once`);
receiver.kill('SIGTERM');
const [code] = await once(receiver, 'exit');
assert.equal(code, 0);
