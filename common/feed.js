/**
 * Subscribes a page to topics over WebSocket, an event stream, long polls or short polls. When one fails,
 * the next goes on after the same cursor, so no message is lost or comes twice. No dependencies.
 *
 *     import { subscribe } from "/feed.js";
 *     const subscription = subscribe(["news"], {
 *       servers: { websocket: "/websocket", sse: "/sse", longPoll: "/long", poll: "/short" },
 *       onMessage: ({ id, topic, type, timestamp, data }) => show(data),
 *     });
 *
 * All servers must share one feed, because only then do they share its cursors. With `share: true`, all tabs of the
 * origin that subscribe to the same topics of the same servers use one connection. A login must be a cookie, because every transport sends
 * it. A browser does not tell why a connection was refused: after `lost`, ask your server whether the login still holds.
 */

/** A connection is closed after this silence and GRACE. Three heartbeats. */
const SILENCE = 45_000;
/** The same until a new connection's first data. A proxy that buffers a stream fails here. */
const OPENING = 10_000;
/** The time from a missing heartbeat to the end. A computer that wakes up has this long to read what has come. */
const GRACE = 5_000;
const HEARTBEAT = 15; // seconds
const WAIT = 25; // seconds for which a server holds its answer
const POLL_INTERVAL = 5; // seconds, if the server does not say
const LONGEST_PAUSE = 30; // seconds

/**
 * @param {string[]} topics
 * @param {object} options
 * @param {Object<string, string>} options.servers - the base URL for `websocket`, `sse`, `longPoll` and `poll`; any of
 *   them may be absent. They are tried in the order of this object.
 * @param {string} [options.after] - where to begin: a cursor, `earliest`, `latest` or `last`. A page that is loaded again
 *   in the same tab goes on where it was.
 * @param {boolean} [options.share] - one connection for all tabs. A page without the browser's locks has its own: it came
 *   over plain HTTP, and not from localhost, or it may store nothing.
 * @param {(message: object) => void} options.onMessage
 * @param {(gap: {reason: string, topics: string[], requested: string, resumed: string}) => void} [options.onGap] -
 *   messages are missing. It may be called again with the same gap after a reconnect.
 * @param {(state: "connecting" | "live" | "lost", server: string) => void} [options.onState]
 * @returns {{ close: () => void }}
 */
export function subscribe(topics, options) {
  const { servers, after = "latest", share = false } = options;
  const [onMessage, onGap, onState] = ["onMessage", "onGap", "onState"].map(
    (name) => (...args) => attempt(() => options[name]?.(...args), reportError),
  );
  const key = `feed ${[...topics].sort()} of ${Object.values(servers)}`;
  const choices = Object.entries(servers);
  let cursor = attempt(() => sessionStorage.getItem(key)) ?? after;
  let state = [];
  let left, wake;

  function moveTo(next) {
    cursor = next;
    attempt(() => sessionStorage.setItem(key, next)); // without it, a page that is loaded again begins at `after`
  }

  const own = {
    message(message) { moveTo(message.id); onMessage(message); },
    gap: onGap, // does not move the cursor: messages of other topics may still come before `resumed`
    /** All messages up to `next` were passed on. */
    position(next) { if (next && isNewer(next, cursor)) moveTo(next); },
    state(next) {
      if (`${next}` !== `${state}`) onState(...next);
      state = next;
    },
  };

  /** One connection, until it fails. Resolves to whether it was live. */
  async function connect([name, base], take, until) {
    let isLive = false;
    const live = () => { if (!isLive) take.state(["live", name]); isLive = true; };
    const controller = new AbortController();
    const signal = AbortSignal.any([until, controller.signal]);
    take.state(["connecting", name]);
    if (signal.aborted) return false; // any callback may close the subscription
    const hearing = wrapped({ ...take, live }, (name, hear) => (what) => signal.aborted || hear(what));
    const url = () => `${base}/topics/${topics}?after=${cursor}`;
    await TRANSPORTS[name](url, hearing, signal).catch(() => {});
    controller.abort(); // closes what is still open
    return isLive;
  }

  async function run(take, signal) {
    for (let index = 0, failures = 0; !signal.aborted; ) {
      const choice = choices[index % choices.length];
      if (await connect(choice, take, signal)) failures = 0;
      else [index, failures] = [index + 1, failures + 1];
      // A server that was live is tried again after a pause. After one that was not, the next is tried at once,
      // until a whole round has failed.
      const rounds = failures / choices.length;
      if (signal.aborted || !Number.isInteger(rounds)) continue;
      take.state(["lost", choice[0]]);
      // Full jitter: any time up to a bound that doubles with each round.
      await pause(Math.random() * Math.min(LONGEST_PAUSE, 2 ** rounds));
    }
  }

  const pause = (seconds) => new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, seconds * 1000);
  });

  /**
   * The tab that holds the lock, the leader, connects. It posts each thing that it receives, with its cursor before it.
   * Another tab follows: it takes a post if it has everything up to that cursor. If it has not, or if no post comes, it
   * connects too, until it can take a post.
   */
  function runForAll(signal) {
    const channel = new BroadcastChannel(key);
    const post = (name, body) => signal.aborted || channel.postMessage({ name, body, before: cursor });
    let alone;
    let timer = setTimeout(goAlone, OPENING);

    function goAlone() {
      if (alone) return;
      alone = new AbortController();
      const position = (next) => { own.position(next); post("hello"); }; // a leader answers, and is followed again
      run({ ...own, position }, AbortSignal.any([signal, alone.signal]));
    }
    function stop() {
      alone?.abort();
      alone = undefined;
      clearTimeout(timer);
    }
    function follow({ data: { name, body, before } }) {
      if (name === "hello") return;
      if (isNewer(before, cursor)) return goAlone();
      if (alone) post("hello"); // for the leader's state
      stop();
      timer = setTimeout(goAlone, SILENCE + GRACE);
      if (name !== "message" || isNewer(body.id, cursor)) own[name](body);
    }
    /** The tab holds the lock until the returned promise resolves. The browser also takes it from a tab that crashes. */
    function lead() {
      if (signal.aborted) return;
      stop();
      channel.onmessage = ({ data: { name } }) => name === "hello" && post("state", state);
      run(wrapped(own, (name, hear) => (body) => { post(name, body); hear(body); }), signal);
      return new Promise((release) => signal.addEventListener("abort", release));
    }

    signal.addEventListener("abort", () => { stop(); channel.close(); });
    channel.onmessage = follow;
    post("hello");
    navigator.locks.request(key, { signal }, lead).catch(goAlone); // a page that may store nothing gets no lock
  }

  /** A page in the back/forward cache holds no connection. When it is shown again, it goes on after its cursor. */
  function show() {
    left?.abort();
    left = new AbortController();
    const { signal } = left;
    const runAlone = () => run(own, signal);
    if (share && navigator.locks) attempt(() => runForAll(signal), runAlone);
    else runAlone();
  }
  const hide = () => { left.abort(); wake?.(); };
  const listeners = {
    pageshow: ({ persisted }) => persisted && show(),
    pagehide: hide,
    online: show, // from the first choice again
    focus: () => wake?.(), // the user looks at the page: no long pause
  };
  for (const name in listeners) addEventListener(name, listeners[name]);
  show();
  return {
    close() {
      for (const name in listeners) removeEventListener(name, listeners[name]);
      hide();
    },
  };
}

/** An error of the page's callbacks, or of a browser that may store nothing, does not end a subscription. */
function attempt(call, failed = () => {}) {
  try {
    return call();
  } catch (error) {
    failed(error);
  }
}

/** The same functions, each in another one. */
const wrapped = (functions, wrap) =>
  Object.fromEntries(Object.entries(functions).map(([name, one]) => [name, wrap(name, one)]));

/** Each passes what it receives to `take`, until it fails or `signal` is aborted. Then it closes everything and rejects. */
const TRANSPORTS = {
  websocket(url, take, signal) {
    const address = new URL(`${url()}&heartbeat=${HEARTBEAT}`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, "feed.v1.json");
    return watched(signal, () => socket.close(), (alive, fail) => {
      socket.onclose = fail;
      socket.onmessage = ({ data }) => {
        alive();
        const [[name, body]] = Object.entries(JSON.parse(data));
        if (name === "message") take.message(body);
        if (name === "gap") take.gap(body);
        if (body.next) take.position(body.next);
        take.live();
      };
    });
  },

  /** The first error ends it, because EventSource's own reconnects would never try another server. */
  sse(url, take, signal) {
    const source = new EventSource(`${url()}&heartbeat=event`);
    return watched(signal, () => source.close(), (alive, fail) => {
      source.onerror = fail;
      const on = (name, heard) => source.addEventListener(name, (event) => {
        alive();
        heard(event);
        take.live();
      });
      on("message", ({ data }) => take.message(JSON.parse(data)));
      on("gap", ({ data }) => take.gap(JSON.parse(data)));
      on("heartbeat", ({ lastEventId }) => take.position(lastEventId));
    });
  },

  async longPoll(url, take, signal) {
    // The first poll does not wait: its answer shows that the server is there.
    for (let wait = 0; ; wait = WAIT) await poll(`${url()}&wait=${wait}`, take, signal);
  },

  async poll(url, take, signal) {
    for (;;) {
      const { more, interval } = await poll(url(), take, signal);
      if (!more) await rest(interval, signal);
    }
  },
};

/** The browser's cache sends `If-None-Match`, and turns a 304 into the page that it has stored. */
async function poll(url, take, signal) {
  const timeout = AbortSignal.timeout((WAIT + 10) * 1000);
  const answer = await fetch(url, { cache: "no-cache", signal: AbortSignal.any([signal, timeout]) });
  if (!answer.ok) throw new Error(`${answer.status}`);
  const page = await answer.json();
  if (page.gap) take.gap(page.gap);
  page.messages.forEach(take.message);
  take.position(page.next);
  take.live();
  signal.throwIfAborted();
  return { more: page.more, interval: Number(answer.headers.get("X-Poll-Interval")) || POLL_INTERVAL };
}

/** A promise that only rejects: when `start` says so, after a silence, or when `signal` is aborted. */
function watched(signal, close, start) {
  let timer;
  return new Promise((_, fail) => {
    const within = (time) => {
      clearTimeout(timer);
      // In two steps: when a computer wakes up, timers fire before the bytes that have come are read.
      timer = setTimeout(() => { timer = setTimeout(fail, GRACE); }, time);
    };
    signal.addEventListener("abort", fail);
    within(OPENING);
    start(() => within(SILENCE), fail);
  }).finally(() => { clearTimeout(timer); close(); });
}

const rest = (seconds, signal) => new Promise((resolve) => {
  const done = () => {
    clearTimeout(timer);
    signal.removeEventListener("abort", done);
    resolve();
  };
  const timer = setTimeout(done, seconds * 1000);
  signal.addEventListener("abort", done);
});

/** Cursors are EPOCH-SEQ. In another epoch the server's position counts: a gap has named what was lost. */
function isNewer(cursor, than) {
  const [[epoch, seq], [thanEpoch, thanSeq]] = [cursor.split("-"), than.split("-")];
  return epoch !== thanEpoch || BigInt(seq ?? 0) > BigInt(thanSeq ?? 0);
}
