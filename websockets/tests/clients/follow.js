// A client of the feed over any WebSocket. It reconnects after its last id, for ever. It runs in Node
// and, as text, in a page. Not every WebSocket reports every lost connection: Node 20's does not report a
// handshake that was cut off. So the client asks for heartbeats, and reconnects after two missing ones.
export function follow(WebSocket, url, tell) {
  const HEARTBEAT = 1; // seconds
  let after = "earliest";
  const on = {
    message: ({ id }) => tell({ id: (after = id) }),
    gap: (gap) => tell({ gap }),
    heartbeat: ({ next }) => (after = next), // also sent behind a gap and its messages
  };
  const connect = () => {
    const socket = new WebSocket(`${url}?after=${after}&heartbeat=${HEARTBEAT}`, "feed.v1.json");
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(lost, 2_500 * HEARTBEAT);
    };
    const lost = ({ code } = {}) => {
      clearTimeout(watchdog);
      socket.onmessage = socket.onclose = null;
      socket.close();
      tell({ closed: code ?? "silent" });
      setTimeout(connect, 50 + Math.random() * 100);
    };
    socket.onopen = () => tell({ open: true });
    socket.onmessage = ({ data }) => {
      alive();
      const [[name, body]] = Object.entries(JSON.parse(data));
      on[name]?.(body);
    };
    socket.onerror = () => {};
    socket.onclose = lost;
    alive();
  };
  connect();
}
