//! A session: one task, one `select!` over socket, feed, time and shutdown.
//!
//! There is no queue. What one read brought is answered with one write. A page is pulled from the feed
//! when all before it is written, so a peer that does not read costs its socket and a page, and pushes
//! back as far as the feed, where it falls behind and is told of the gap. A peer that sends and does not
//! read what is answered is not read any further, and its own socket fills.

use std::{
    num::NonZeroU16,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use common::{After, FeedError, Topics};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};
use tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    App,
    close::{self, Ending},
    commands::Client,
    protocol,
    socket::{Reset, Socket},
};

/// When so many bytes wait to be written, nothing more is read: the answers would have no place.
const MAX_UNSENT: usize = 64 * 1024;

/// What the client asked for in its handshake.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A session, perhaps subscribed from the first byte, perhaps with heartbeats.
    Feed {
        subscription: Option<(Topics, After)>,
        heartbeat: Option<NonZeroU16>,
    },
    /// Its own messages back.
    Echo,
}

/// One open session.
pub(crate) struct Session<S> {
    app: Arc<App>,
    socket: Socket<S>,
    client: Client,
    /// Messages are only sent back.
    echo: bool,
    /// When the last ping was sent.
    pinged: Option<Instant>,
    /// When quiet subscriptions are moved on next.
    beat_at: Instant,
    /// Seconds between `heartbeat` frames, if the client asked for them.
    heartbeat: Option<NonZeroU16>,
    /// When it is this session's turn to leave, once the server drains.
    leave_at: Option<Instant>,
    /// Freed when the session ends, however it ends. Without one it ends at once.
    place: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// A session that begins. `place` is its permit, if there was one left.
    pub(crate) fn new(
        app: &Arc<App>,
        socket: Socket<S>,
        asked: Asked,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let mut session = Self {
            app: app.clone(),
            socket,
            client: Client::new(&app.feed),
            echo: false,
            pinged: None,
            beat_at: Instant::now() + app.config.ping,
            heartbeat: None,
            leave_at: None,
            place,
        };
        if session.place.is_some() {
            session.open(asked);
        }
        session
    }

    fn open(&mut self, asked: Asked) {
        let Asked::Feed {
            subscription,
            heartbeat,
        } = asked
        else {
            self.echo = true;
            return;
        };
        self.heartbeat = heartbeat;
        self.beat_at = Instant::now() + self.beat();
        if let Some((topics, after)) = subscription {
            let next = self.client.subscriptions.add(topics, after);
            self.socket.push_text(&protocol::subscribed(None, next));
        }
    }

    /// Goes on until one side ends it.
    pub(crate) async fn live(&mut self, draining: &mut watch::Receiver<bool>) -> Ending {
        if self.place.is_none() {
            return Ending::ours(CloseCode::Again, "at the subscriber limit");
        }
        let mut drain = pin!(draining.changed());
        let mut alarm = pin!(sleep_until(self.tick_at()));
        loop {
            // What was pushed leaves at once, as far as the socket takes it.
            if let Err(error) = self.socket.write_some().await {
                return error.into();
            }
            // The alarm may ring early, and is put off then: not at every message, which would cost
            // as much as the message.
            if alarm.is_elapsed() || self.tick_at() < alarm.deadline() {
                alarm.as_mut().reset(self.tick_at());
            }
            let (unsent, stays) = (self.socket.unsent(), self.leave_at.is_none());
            let woken = tokio::select! {
                ready = self.socket.ready(unsent < MAX_UNSENT) => ready.map_err(Ending::from),
                page = self.client.subscriptions.next(), if unsent == 0 && stays => self.deliver(page),
                () = &mut alarm => Ok(()),
                _ = &mut drain, if stays => self.plan_to_leave(),
            };
            if let Err(ending) = woken {
                return ending;
            }
            // Boxed, as is the end: a session that waits need not hold the room for its work.
            let due = alarm.is_elapsed();
            if (due || self.socket.is_unread())
                && let Err(ending) = Box::pin(self.work(due)).await
            {
                return ending;
            }
        }
    }

    /// Ends the connection, and says how it went.
    pub(crate) fn end(&mut self, ending: Ending) -> Pin<Box<impl Future<Output = ()>>>
    where
        S: Reset,
    {
        Box::pin(async move {
            let (published, received) = (self.client.published, self.client.received);
            debug!(%ending, published, received, "session ended");
            if !close::close(&mut self.socket, ending).await {
                let stalled = self.app.stalled.fetch_add(1, Ordering::Relaxed) + 1;
                info!(stalled, "reset a peer that took no byte");
            }
        })
    }

    async fn work(&mut self, due: bool) -> Result<(), Ending> {
        while self.socket.unsent() < MAX_UNSENT
            && let Some(message) = self.socket.message()
        {
            self.take(message?).await?;
        }
        if due {
            self.tick().await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<(), Ending> {
        match message {
            Message::Text(_) | Message::Binary(_) if self.echo => self.socket.push_back(&message),
            Message::Text(text) => {
                if let Some(answer) = self.client.obey(&self.app.feed, &text).await {
                    self.socket.push_text(&answer);
                }
            }
            Message::Binary(_) => {
                return Err(Ending::ours(CloseCode::Unsupported, "text messages only"));
            }
            Message::Close(_) => return Err(Ending::ByPeer),
            // tungstenite answers pings; a pong was life, as any byte is.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    fn deliver(&mut self, page: Result<Bytes, FeedError>) -> Result<(), Ending> {
        match page {
            Ok(frames) => self.socket.push_frames(frames),
            Err(FeedError::Closed) => return self.plan_to_leave(),
            Err(error) => {
                warn!(%error, "the feed failed a session");
                return Err(Ending::ours(CloseCode::Error, "the feed failed"));
            }
        }
        Ok(())
    }

    fn tell_position(&mut self) {
        if let Some(next) = self.client.subscriptions.position() {
            self.socket.push_text(&protocol::heartbeat(next));
        }
    }

    /// Sessions do not leave all at once: whoever takes the clients over has to accept every one of
    /// them.
    fn plan_to_leave(&mut self) -> Result<(), Ending> {
        let config = &self.app.config;
        let open = config.max_subscribers - self.app.subscribers.available_permits();
        let wait = spread(open, config.drain).mul_f64(rand::random());
        self.leave_at.get_or_insert(Instant::now() + wait);
        Ok(())
    }

    /// The last of what was published, as far as the peer takes it, and then a close.
    async fn leave(&mut self) -> Ending {
        while self.socket.unsent() < MAX_UNSENT
            && let Some(frames) = self.client.subscriptions.read().await
        {
            self.socket.push_frames(frames);
        }
        Ending::ours(CloseCode::Restart, "the server restarts")
    }

    /// When there is something to do without anything happening.
    fn tick_at(&self) -> Instant {
        let tick_at = self.beat_at.min(self.check_at());
        self.leave_at
            .map_or(tick_at, |leave_at| leave_at.min(tick_at))
    }

    async fn tick(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if self.leave_at.is_some_and(|leave_at| leave_at <= now) {
            return Err(self.leave().await);
        }
        if self.beat_at <= now {
            self.beat_at = now + self.beat();
            self.client.subscriptions.pass_by_quiet().await;
            if self.heartbeat.is_some() {
                self.tell_position();
            }
        }
        if self.check_at() <= now {
            self.check(now)?;
        }
        Ok(())
    }

    fn beat(&self) -> Duration {
        let seconds = |every: NonZeroU16| Duration::from_secs(every.get().into());
        self.heartbeat.map_or(self.app.config.ping, seconds)
    }

    /// When a silent peer is to be pinged, or given up.
    fn check_at(&self) -> Instant {
        match self.unanswered_ping() {
            Some(pinged) => pinged + self.app.config.pong(),
            None => self.socket.heard() + self.app.config.ping,
        }
    }

    /// Any byte answers a ping.
    fn unanswered_ping(&self) -> Option<Instant> {
        self.pinged.filter(|pinged| self.socket.heard() < *pinged)
    }

    fn check(&mut self, now: Instant) -> Result<(), Ending> {
        if self.socket.unsent() > 0 {
            // A ping would wait behind what the peer does not take: here the stall guard judges.
            self.socket.excuse();
            return Ok(());
        }
        if self.unanswered_ping().is_some() {
            return Err(Ending::ours(CloseCode::Policy, "no answer to a ping"));
        }
        self.pinged = Some(now);
        self.socket.push_ping(rand::random());
        Ok(())
    }
}

/// The time over which so many sessions leave: a thousand a second, but the last one by half of the
/// drain, so that there is time for its closing.
fn spread(open: usize, drain: Duration) -> Duration {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    Duration::from_millis(1).saturating_mul(open).min(drain / 2)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
