//! A session: one task, one `select!` over socket, news, time and shutdown.
//!
//! There is no queue. One write carries the answers to everything that one read brought. News is fetched
//! only when everything before it is written. So a peer that does not read costs its socket and one page.
//! It falls behind in the feed and is told of the gap. If a peer sends but does not read the answers, the
//! session stops reading, and the peer's own socket fills.
//!
//! A [`Subprotocol`] says what the messages mean. This file keeps the connection healthy.

use std::{future::ready, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until},
};
use tracing::trace;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    close::{Ending, Stalled, close},
    frames::{PING, TEXT, push_frame},
    socket::{Message, Socket},
};

/// While this many bytes wait to be written, a session reads and answers nothing, because every answer needs
/// more memory. At most one answer exceeds it.
pub const MAX_UNSENT: usize = 64 * 1024;

/// What the messages of one session mean (RFC 6455 §1.9). An echo, which has no news:
///
/// ```
/// use websockets::{close::Ending, session::Subprotocol};
///
/// struct Echo;
///
/// impl Subprotocol for Echo {
///     async fn handle(&mut self, text: &str) -> Option<String> {
///         Some(text.to_owned())
///     }
///
///     async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
///         std::future::pending().await
///     }
///
///     async fn heartbeat(&mut self) -> Option<String> {
///         None
///     }
/// }
/// ```
pub trait Subprotocol {
    /// Handles one text message. Returns the text that answers it, if there is one. To end the session for a message,
    /// remember why, and return it from `next`.
    fn handle(&mut self, text: &str) -> impl Future<Output = Option<String>> + Send;

    /// Waits for news. Returns whole frames, made by [`push_frame`]. `None` means that no more will come:
    /// the session then ends with 1012. Must be cancel-safe: if the future is dropped before it is ready, no
    /// news may be lost. An empty `Vec` is no news, and the session calls `next` again. So the call after it
    /// must have news or wait.
    ///
    /// # Errors
    /// How the session ends instead.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, Ending>> + Send;

    /// Called at every heartbeat, or once per ping interval if the client asked for none: a subprotocol may
    /// also use the call to move its cursors. Returns the text of the heartbeat, if there is one. The session
    /// drops the text if the client asked for none, or while something waits to be written.
    fn heartbeat(&mut self) -> impl Future<Output = Option<String>> + Send;
}

/// What all sessions of a server share.
#[derive(Debug)]
pub struct Sessions {
    /// A peer that was silent for this long is pinged. It has half of that time to answer, with any byte.
    pub ping: Duration,
    /// A session is closed at this age, or up to a tenth earlier.
    pub age: Duration,
    /// How long the server drains. The last session leaves by half of this time.
    pub drain: Duration,
    /// The most sessions that may be open.
    pub max: usize,
    /// One permit for each session that may still open.
    pub slots: Arc<Semaphore>,
}

impl Sessions {
    /// No sessions yet, and at most `max` of them.
    pub fn new(max: usize, ping: Duration, age: Duration, drain: Duration) -> Self {
        Self {
            ping,
            age,
            drain,
            max,
            slots: Arc::new(Semaphore::new(max)),
        }
    }

    /// How many sessions are open.
    pub fn open(&self) -> usize {
        self.max - self.slots.available_permits()
    }

    /// The right to open one more session. Dropping it frees the slot. `None` if all slots are taken.
    pub fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }
}

/// Whether the peer is still there. Any byte from it proves that.
#[derive(Debug, Clone, Copy)]
enum Liveness {
    /// It is taken to be there.
    Assumed,
    /// It was pinged at this time.
    Asked(Instant),
    /// At this time it had not answered the ping. It gets a [`DOUBT`]th of a ping interval more.
    Doubted(Instant),
}

/// A peer is given up after two checks, if the second is on time. They are this fraction of a ping interval
/// apart. When a stopped process continues, the runtime learns of at most 1,024 readable sockets before it
/// runs the timers. So a single check may miss an answer that is already in the socket.
const DOUBT: u32 = 20;

/// One open session.
#[derive(Debug)]
pub struct Session<S, P> {
    shared: Arc<Sessions>,
    /// Held until the session ends, however it ends. Without one, the session is closed at once: a page
    /// cannot see why a handshake is refused.
    slot: Option<OwnedSemaphorePermit>,
    socket: Socket<S>,
    subprotocol: P,
    liveness: Liveness,
    /// How often the client wants a heartbeat, if it asked for them.
    heartbeat: Option<Duration>,
    heartbeat_at: Instant,
    /// When this session leaves: at its greatest age, or earlier if the server drains.
    leave_at: Instant,
    /// The server drains. The session fetches no more news until it leaves.
    draining: bool,
}

impl<S, P> Session<S, P>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Subprotocol,
{
    /// A new session. `slot` is from [`Sessions::slot`].
    pub fn new(
        shared: Arc<Sessions>,
        slot: Option<OwnedSemaphorePermit>,
        socket: Socket<S>,
        subprotocol: P,
        heartbeat: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        Self {
            leave_at: now + shortened(shared.age),
            heartbeat_at: now + heartbeat.unwrap_or(shared.ping),
            shared,
            slot,
            socket,
            subprotocol,
            liveness: Liveness::Assumed,
            heartbeat,
            draining: false,
        }
    }

    /// The connection below.
    pub fn get_ref(&self) -> &S {
        self.socket.get_ref()
    }

    /// Runs until one side ends the session, then closes it. The session drains when `draining` changes, or when
    /// its sender is dropped. Nothing else is needed: the subprotocol's `next` may go on.
    ///
    /// To wait until all sessions have ended, give each its own receiver, drop all others (your shared state may
    /// hold one), and await the sender's `closed()`.
    ///
    /// # Errors
    /// [`Stalled`], if the peer accepted no data.
    pub async fn run(&mut self, draining: &mut watch::Receiver<bool>) -> Result<(), Stalled> {
        if self.slot.is_none() {
            trace!(count.refused = 1);
            let refused = Ending::Ours(CloseCode::Again, "at the subscriber limit");
            return Box::pin(close(&mut self.socket, refused)).await;
        }
        let mut drain = pin!(draining.changed());
        let mut timer = pin!(sleep_until(self.tick_at()));
        let ending = loop {
            // Sends what is queued, as far as the connection takes it now.
            if let Err(error) = self.socket.try_ready(false) {
                break error.into();
            }
            // The timer may fire too early, and is then reset. Resetting it at every message would cost
            // as much as the message itself.
            if timer.is_elapsed() || self.tick_at() < timer.deadline() {
                timer.as_mut().reset(self.tick_at());
            }
            let unsent = self.socket.unsent();
            let woken = tokio::select! {
                ready = self.socket.ready(unsent < MAX_UNSENT) => ready.map_err(Ending::from),
                news = self.subprotocol.next(), if unsent == 0 && !self.draining => self.deliver(news),
                () = &mut timer => Ok(()),
                _ = &mut drain, if !self.draining => self.deliver(Ok(None)),
            };
            if let Err(ending) = woken {
                break ending;
            }
            // `work` and `close` are boxed, so that an idle session does not reserve memory for them.
            let due = timer.is_elapsed();
            if (due || self.socket.is_unread())
                && let Err(ending) = Box::pin(self.work(due)).await
            {
                break ending;
            }
        };
        Box::pin(close(&mut self.socket, ending)).await
    }

    /// Queues news. `None` means that no more will come: the session then leaves at a random time, so that
    /// the next server need not accept all clients at once.
    fn deliver(&mut self, news: Result<Option<Vec<u8>>, Ending>) -> Result<(), Ending> {
        if let Some(frames) = news? {
            self.socket.push_frames(frames);
            return Ok(());
        }
        let time = spread(self.shared.open(), self.shared.drain);
        let wait = time.mul_f64(rand::random());
        self.leave_at = self.leave_at.min(Instant::now() + wait);
        self.draining = true;
        Ok(())
    }

    /// Handles what has come, and what is due by the clock.
    async fn work(&mut self, due: bool) -> Result<(), Ending> {
        if due {
            // Read first: `tick` must not take a peer for silent whose answer is already in the socket.
            self.socket.try_ready(true)?;
        }
        while self.socket.unsent() < MAX_UNSENT
            && let Some((message, out)) = self.socket.message()?
        {
            match message {
                Message::Text(text) => {
                    if let Some(answer) = self.subprotocol.handle(text).await {
                        push_frame(TEXT, answer.as_bytes(), out);
                    }
                }
                Message::Binary(_) => {
                    return Err(Ending::Ours(CloseCode::Unsupported, "text messages only"));
                }
                Message::Close => return Err(Ending::ByPeer),
            }
        }
        if due {
            self.tick().await?;
        }
        Ok(())
    }

    /// When `tick` has something to do: leave, send a heartbeat, or check a silent peer.
    fn tick_at(&self) -> Instant {
        self.leave_at.min(self.heartbeat_at).min(self.check_at())
    }

    async fn tick(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if self.leave_at <= now {
            return Err(self.leave().await);
        }
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + self.heartbeat.unwrap_or(self.shared.ping);
            // Heartbeats would pile up behind bytes that the peer does not accept.
            if let Some(text) = self.subprotocol.heartbeat().await
                && self.heartbeat.is_some()
                && self.socket.unsent() == 0
            {
                self.socket.push(TEXT, text.as_bytes());
            }
        }
        if self.check_at() <= now {
            self.check(now)?;
        }
        Ok(())
    }

    /// Queues the last news, until there is no room or `next` would wait, has ended or fails. Then closes.
    async fn leave(&mut self) -> Ending {
        while self.socket.unsent() < MAX_UNSENT {
            tokio::select! {
                biased;
                Ok(Some(news)) = self.subprotocol.next() => self.socket.push_frames(news),
                () = ready(()) => break,
            }
        }
        let reason = match self.draining {
            true => "the server restarts",
            false => "the session is at its greatest age",
        };
        Ending::Ours(CloseCode::Restart, reason)
    }

    fn liveness(&self) -> Liveness {
        match self.liveness {
            Liveness::Asked(since) | Liveness::Doubted(since) if self.socket.heard() >= since => {
                Liveness::Assumed
            }
            other => other,
        }
    }

    /// When a silent peer is pinged, doubted or given up. A peer that sends but receives nothing is pinged
    /// too, because a proxy may watch only this direction.
    fn check_at(&self) -> Instant {
        let ping = self.shared.ping;
        match self.liveness() {
            Liveness::Assumed => self.socket.silent_since() + ping,
            Liveness::Asked(pinged) => pinged + ping / 2 - ping / DOUBT,
            Liveness::Doubted(since) => since + ping / DOUBT,
        }
    }

    fn check(&mut self, now: Instant) -> Result<(), Ending> {
        if self.socket.unsent() > 0 {
            // A ping would queue behind bytes that the peer does not accept. The connection's write
            // timeout disconnects such a peer.
            self.socket.end_silence();
            return Ok(());
        }
        // If so, the process was stopped or starved, and the answer may be unread.
        let is_late = now > self.check_at() + self.shared.ping / DOUBT / 2;
        self.liveness = match self.liveness() {
            Liveness::Assumed => {
                self.socket.push(PING, &rand::random::<[u8; 4]>());
                Liveness::Asked(now)
            }
            Liveness::Doubted(_) if !is_late => {
                return Err(Ending::Ours(CloseCode::Policy, "no answer to a ping"));
            }
            Liveness::Asked(_) | Liveness::Doubted(_) => Liveness::Doubted(now),
        };
        Ok(())
    }
}

/// The time over which the open sessions leave: a thousand a second, but all by half of the drain, so that
/// the last one has time to close.
fn spread(open: usize, drain: Duration) -> Duration {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    Duration::from_millis(1).saturating_mul(open).min(drain / 2)
}

/// Up to a tenth less, so that sessions that began together do not end together.
fn shortened(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_session_leaves_by_half_of_the_drain() {
        let drain = Duration::from_secs(10);
        assert_eq!(spread(0, drain), Duration::ZERO);
        assert_eq!(spread(20, drain), Duration::from_millis(20));
        assert_eq!(spread(5_000, drain), Duration::from_secs(5));
        assert_eq!(spread(usize::MAX, drain), Duration::from_secs(5));
    }
}
