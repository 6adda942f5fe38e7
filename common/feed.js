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
 * All servers must share one feed, because only then do they share its cursors: they are routes of one app, or are
 * started with `--feed nats://…`. A base URL on another origin, such as `http://127.0.0.1:8005`, needs `--allow-origin`.
 * nginx gives them one origin: `location /sse/ { proxy_pass http://127.0.0.1:8005/; }`, and so on.
 *
 * With `share: true`, all tabs of the origin that subscribe to the same topics of the same servers use one connection.
 * A login is a cookie, which every transport sends, or `query` adds a ticket. A browser does not tell why a connection
 * was refused: after `lost`, ask your server whether the login still holds.
 */

// All times are in seconds.
const HEARTBEAT = 15;
const SILENCE = 3 * HEARTBEAT; // a connection is closed after this silence and GRACE
const GRACE = 5; // a computer that wakes up has this time to read what has come
const OPENING = 10; // for the first data of a new connection: a proxy that buffers a stream fails here
const WAIT = 25; // a server of long polls holds its answer for this time
const POLL_INTERVAL = 5; // if the server does not say
const LONGEST_PAUSE = 30;

/**
 * @param {string[]} topics
 * @param {object} options
 * @param {Object<string, string>} options.servers - the base URL for `websocket`, `sse`, `longPoll` and `poll`; any of
 *   them may be absent. They are tried in the order of this object.
 * @param {string} [options.after] - where to begin: a cursor, `earliest`, `latest` or `last`. A page that is loaded
 *   again in the same tab goes on where it was.
 * @param {boolean} [options.share] - one connection for all tabs. A page without the browser's locks has its own: it
 *   came over plain HTTP, and not from localhost, or it may store nothing.
 * @param {() => Promise<Object<string, string>>} [options.query] - parameters for one request, for instance
 *   `{ ticket }`. It is called before each connection, and before each poll.
 * @param {(message: object) => void} options.onMessage
 * @param {(gap: {reason: string, topics: string[], requested: string, resumed: string}) => void} [options.onGap] -
 *   messages are missing. It may be called again with the same gap after a reconnect.
 * @param {(state: "connecting" | "live" | "lost", server: string) => void} [options.onState]
 * @returns {{ close: () => void }}
 */
export function subscribe(topics, options) {
  const { servers, after = "latest", share = false } = options;
  const key = `feed ${[...topics].sort()} of ${Object.values(servers)}`;
  const call = (name, ...args) => attempt(() => options[name]?.(...args), reportError);
  const closed = new AbortController();
  let cursor = attempt(() => sessionStorage.getItem(key)) ?? after;
  let state = [];
  let left;

  function moveTo(next) {
    cursor = next;
    attempt(() => sessionStorage.setItem(key, next)); // without it, a page that is loaded again begins at `after`
  }

  const received = {
    message(message) { moveTo(message.id); call("onMessage", message); },
    gap(gap) {
      // After a trimmed one, messages of other topics may still come before `resumed`.
      if (gap.reason !== "trimmed") moveTo(gap.resumed);
      call("onGap", gap);
    },
    /** All messages up to `next` were passed on. */
    position({ next }) { if (isNewer(next, cursor)) moveTo(next); },
    state(next) {
      if (`${next}` !== `${state}`) call("onState", ...next);
      state = next;
    },
  };
  const take = (name, body) => received[name]?.(body);

  /** One connection, until it fails. If it was live, that is the state. */
  async function connect([name, base], take, until) {
    const connection = new AbortController();
    const end = () => connection.abort();
    const signal = AbortSignal.any([until, connection.signal]);
    const hear = (what, body) => signal.aborted || take(what, body); // any callback may close the subscription
    async function url(query) {
      signal.throwIfAborted();
      const added = await options.query?.();
      return `${base}/topics/${topics}?${new URLSearchParams({ after: cursor, ...query, ...added })}`;
    }
    let timer = later(OPENING, end);
    /** The server is there. It must be heard again within this time. */
    function live(seconds) {
      clearTimeout(timer);
      // In two steps: when a computer wakes up, timers fire before the bytes that have come are read.
      timer = later(seconds, () => { timer = later(GRACE, end); });
      if (state[0] !== "live") hear("state", ["live", name]);
    }

    hear("state", ["connecting", name]);
    await new Promise((resolve) => {
      signal.addEventListener("abort", resolve);
      TRANSPORTS[name]({ url, hear, live, end, signal }).catch(resolve);
    });
    end(); // closes what is still open
  }

  async function run(take, signal) {
    const choices = Object.entries(servers);
    for (let index = 0, failures = 0; !signal.aborted; ) {
      const choice = choices[index % choices.length];
      await connect(choice, take, signal);
      if (state[0] === "live") failures = 0;
      else [index, failures] = [index + 1, failures + 1];
      // A server that was live is tried again after a pause. After one that was not, the next is tried at once,
      // until a whole round has failed.
      if (signal.aborted || failures % choices.length) continue;
      take("state", ["lost", choice[0]]);
      // Full jitter: any time up to a bound that doubles with each round.
      await pause(Math.random() * Math.min(LONGEST_PAUSE, 2 ** (failures / choices.length)));
    }
  }

  /**
   * The tab that holds the lock, the leader, connects. It posts each thing that it receives, with its cursor before it.
   * Another tab follows: it takes a post if it has everything up to that cursor. If it has not, or if no post comes, it
   * connects too, until it can take a post.
   */
  function runForAll(signal) {
    const channel = new BroadcastChannel(key);
    const post = (name, body) => channel.postMessage({ name, body, before: cursor });
    let alone, timer;

    function goAlone() {
      if (alone || signal.aborted) return;
      alone = new AbortController();
      run((name, body) => {
        take(name, body);
        if (name === "position") post("hello"); // a leader answers, and is followed again
      }, alone.signal);
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
      timer = later(SILENCE + GRACE, goAlone);
      if (name !== "message" || isNewer(body.id, cursor)) take(name, body);
    }
    /** The tab holds the lock until the promise resolves. The browser also takes it from a tab that crashes. */
    function lead() {
      if (signal.aborted) return;
      stop();
      channel.onmessage = ({ data: { name } }) => name === "hello" && post("state", state);
      run((name, body) => { post(name, body); take(name, body); }, signal);
      return new Promise((release) => signal.addEventListener("abort", release));
    }

    navigator.locks.request(key, { signal }, lead).catch(goAlone); // a page that may store nothing gets no lock
    signal.addEventListener("abort", () => { stop(); channel.close(); });
    channel.onmessage = follow;
    timer = later(OPENING, goAlone);
    post("hello");
  }

  /** A page in the back/forward cache holds no connection. When it is shown again, it goes on after its cursor. */
  function show() {
    left?.abort();
    left = new AbortController();
    const runAlone = () => run(take, left.signal);
    if (share) attempt(() => runForAll(left.signal), runAlone);
    else runAlone();
  }
  const on = (name, act) => addEventListener(name, act, { signal: closed.signal });
  on("pageshow", ({ persisted }) => persisted && show());
  on("pagehide", () => left.abort());
  on("online", show); // from the first choice again
  show();
  return { close() { closed.abort(); left.abort(); } };
}

/** An error of the page's callbacks, or of a browser that may store nothing, does not end a subscription. */
function attempt(call, failed = () => {}) {
  try {
    return call();
  } catch (error) {
    failed(error);
  }
}

/** Each passes on what it receives, until it fails or `signal` is aborted. The page may be left at any `await`. */
const TRANSPORTS = {
  websocket: (connection) => stream(connection, { heartbeat: HEARTBEAT }, (url, frame) => {
    const socket = new WebSocket(url, "feed.v1.json");
    socket.onmessage = ({ data }) => frame(...Object.entries(JSON.parse(data))[0]);
    return socket;
  }),

  sse: (connection) => stream(connection, { heartbeat: "event" }, (url, frame) => {
    const source = new EventSource(url, { withCredentials: true });
    for (const name of ["message", "gap", "heartbeat"]) {
      source.addEventListener(name, ({ data }) => frame(name, JSON.parse(data)));
    }
    return source;
  }),

  longPoll: (connection) => poll(connection, WAIT),
  poll: (connection) => poll(connection, 0),
};

/** The first error ends it, because EventSource's own reconnects would never try another server. */
async function stream({ url, hear, live, end, signal }, query, open) {
  const address = await url(query);
  signal.throwIfAborted();
  const source = open(address, (name, body) => {
    hear(body.next ? "position" : name, body);
    live(SILENCE);
  });
  source.onerror = source.onclose = end;
  signal.addEventListener("abort", () => source.close());
}

/** The browser's cache sends `If-None-Match`, and turns a 304 into the page that it has stored. */
async function poll({ url, hear, live, signal }, longest) {
  // The first poll does not wait: its answer shows that the server is there.
  for (let wait = 0; ; wait = longest) {
    const answer = await fetch(await url({ wait }), { cache: "no-cache", credentials: "include", signal });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const page = await answer.json();
    if (page.gap) hear("gap", page.gap);
    page.messages.forEach((message) => hear("message", message));
    hear("position", page);
    const interval = Number(answer.headers.get("X-Poll-Interval")) || POLL_INTERVAL;
    live(OPENING + (longest || interval));
    if (!longest && !page.more) await pause(interval);
  }
}

const later = (seconds, act) => setTimeout(act, seconds * 1000);

/** It ends early when the user looks at the page. */
const pause = (seconds) => new Promise((resolve) => {
  later(seconds, resolve);
  addEventListener("focus", resolve, { signal: AbortSignal.timeout(seconds * 1000) });
});

/** Cursors are EPOCH-SEQ. In another epoch the server's position counts: a gap has named what was lost. */
function isNewer(cursor, than) {
  const [[epoch, seq], [thanEpoch, thanSeq]] = [cursor.split("-"), than.split("-")];
  return epoch !== thanEpoch || BigInt(seq ?? 0) > BigInt(thanSeq ?? 0);
}
