//! Every timer of a session, and its backpressure, over a pipe and under a paused clock.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use common::{After, Data, Draft, Feed, Retention};
use harness::Frame;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    sync::watch,
    task::JoinHandle,
    time::{Instant, advance, sleep, timeout},
};
use websockets::{
    close::{Ending, Stalled},
    frames::{Limits, READ, TEXT},
    session::{MAX_UNSENT, Session, Sessions, Subprotocol},
    socket::Socket,
    subscriptions::{PAGE, Subscriptions},
};

const PING: Duration = Duration::from_secs(20);
const AGE: Duration = Duration::from_secs(3_600);
const DRAIN: Duration = Duration::from_secs(10);
const MAX_SESSIONS: usize = 10_000;

/// The peer's end of a session. The pipe between them holds `buffer` bytes in each direction.
struct Peer {
    io: DuplexStream,
    feed: Feed,
    sessions: Arc<Sessions>,
    session: JoinHandle<Result<(), Stalled>>,
    begun: Instant,
    /// Sending or dropping it starts the drain.
    drain: watch::Sender<bool>,
}

impl Peer {
    fn new(after: Option<After>, heartbeat: Option<Duration>, buffer: usize) -> Self {
        let feed = Feed::new(Retention::default());
        let (io, server) = duplex(buffer);
        let (drain, mut draining) = watch::channel(false);
        let limits = Limits {
            message: 65_536,
            fragments: 10,
        };
        let mut socket = Socket::new(server, b"", limits);
        let mut subprotocol = Subscriptions::new(feed.clone());
        if let Some(after) = after {
            let subscribed = subprotocol.open("a".parse().unwrap(), after, false);
            socket.push(TEXT, subscribed.as_bytes());
        }
        let sessions = Arc::new(Sessions::new(MAX_SESSIONS, PING, AGE, DRAIN));
        let slot = sessions.slot();
        let mut session = Session::new(sessions.clone(), slot, socket, subprotocol, heartbeat);
        let session = tokio::spawn(async move { session.run(&mut draining).await });
        Self {
            io,
            feed,
            sessions,
            session,
            begun: Instant::now(),
            drain,
        }
    }

    fn unsubscribed() -> Self {
        Self::new(None, None, 65_536)
    }

    fn subscribed(buffer: usize) -> Self {
        Self::new(Some(After::Earliest), None, buffer)
    }

    async fn send(&mut self, frame: &Frame) {
        self.io.write_all(&frame.encode()).await.unwrap();
    }

    /// Opcode and payload of the next frame, and the second in which it came.
    async fn next(&mut self) -> (u8, Vec<u8>, u64) {
        let (opcode, length) = (
            self.io.read_u8().await.unwrap() & 15,
            self.io.read_u8().await,
        );
        let length = match length.unwrap() {
            126 => self.io.read_u16().await.unwrap().into(),
            short => short.into(),
        };
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.unwrap();
        (opcode, payload, self.begun.elapsed().as_secs())
    }

    async fn next_text(&mut self) -> (String, u64) {
        let (opcode, payload, second) = self.next().await;
        assert_eq!(opcode, 1);
        (String::from_utf8(payload).unwrap(), second)
    }

    /// Reads the `subscribed` frame of a subscription that has nothing to replay, and the heartbeat that
    /// says that the session is live.
    async fn is_live(&mut self) {
        assert!(self.next_text().await.0.starts_with(r#"{"subscribed":"#));
        assert!(self.next_text().await.0.starts_with(r#"{"heartbeat":"#));
    }

    async fn next_ping(&mut self) -> u64 {
        let (opcode, payload, second) = self.next().await;
        assert_eq!((opcode, payload.len()), (9, 4));
        second
    }

    async fn next_close(&mut self) -> (u16, u64) {
        let (opcode, payload, second) = self.next().await;
        assert_eq!(opcode, 8);
        (u16::from_be_bytes([payload[0], payload[1]]), second)
    }

    /// The second in which the session's task ended.
    async fn ended(&mut self) -> u64 {
        self.ends_as(Ok(())).await
    }

    async fn ends_as(&mut self, outcome: Result<(), Stalled>) -> u64 {
        assert_eq!((&mut self.session).await.unwrap(), outcome);
        self.begun.elapsed().as_secs()
    }
}

async fn publish(feed: &Feed, size: usize) {
    let draft = Draft::new(Data::text(&"x".repeat(size)));
    feed.publish("a".parse().unwrap(), draft).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_after_20_s_given_up_after_30_and_cut_after_35() {
    let mut peer = Peer::unsubscribed();
    assert_eq!(peer.next_ping().await, 20);
    assert_eq!(peer.next_close().await, (1008, 30));
    assert_eq!(peer.ended().await, 35);
}

#[tokio::test(start_paused = true)]
async fn a_pong_is_life_and_the_next_ping_comes_20_s_after_the_last() {
    let mut peer = Peer::unsubscribed();
    for n in 1..4 {
        assert_eq!(peer.next_ping().await, n * 20);
        advance(Duration::from_secs(5)).await;
        peer.send(&Frame::pong("any payload")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_its_greatest_age_a_session_is_closed_with_1012_whatever_it_does() {
    let mut peer = Peer::subscribed(65_536);
    peer.next_text().await;
    let (reason, second) = loop {
        match peer.next().await {
            (9, ping, _) => {
                peer.send(&Frame::pong(ping)).await;
                publish(&peer.feed, 1).await;
            }
            (8, reason, second) => break (reason, second),
            _ => {}
        }
    };
    assert_eq!(reason[2..], *b"the session is at its greatest age");
    assert_eq!(reason[..2], 1012_u16.to_be_bytes());
    assert!((3_240..=3_600).contains(&second), "{second}");
}

#[tokio::test(start_paused = true)]
async fn any_byte_is_life_even_one_of_a_frame_that_never_ends() {
    let mut peer = Peer::unsubscribed();
    let begun = [0x81, 0xfe, 0xff, 0xff, 1, 2, 3, 4];
    peer.io.write_all(&begun).await.unwrap();
    for n in 1..10 {
        assert_eq!(peer.next_ping().await, n * 20);
        peer.io.write_all(b"x").await.unwrap();
    }
    assert_eq!(peer.next_ping().await, 200);
    assert_eq!(peer.next_close().await, (1008, 210));
}

/// The runtime may tell the session of it only a moment later.
#[tokio::test(start_paused = true)]
async fn after_any_pause_a_peer_has_a_second_to_be_heard() {
    let mut peer = Peer::unsubscribed();
    peer.next_ping().await;
    advance(Duration::from_secs(60)).await;
    assert!(
        timeout(Duration::from_millis(900), peer.io.read_u8())
            .await
            .is_err()
    );
    peer.send(&Frame::pong("")).await;
    peer.next_ping().await;
    // From this one nothing comes.
    let mut peer = Peer::unsubscribed();
    peer.next_ping().await;
    advance(Duration::from_secs(60)).await;
    assert_eq!(peer.next_close().await, (1008, 81));
    // The second look comes late.
    let mut peer = Peer::unsubscribed();
    peer.next_ping().await;
    for _ in 0..2 {
        advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.next_close().await, (1008, 141));
}

/// A proxy may watch only what the server sends.
#[tokio::test(start_paused = true)]
async fn a_peer_that_talks_and_hears_nothing_is_pinged() {
    let mut peer = Peer::unsubscribed();
    for n in 1..4 {
        for _ in 0..3 {
            advance(Duration::from_secs(6)).await;
            let received = Frame::text(r#"{"received":{"id":"e-1"}}"#);
            peer.send(&received).await;
        }
        assert_eq!(peer.next_ping().await, n * 20);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_talks_and_hears_answers_is_not_pinged() {
    let mut peer = Peer::unsubscribed();
    for _ in 0..10 {
        advance(Duration::from_secs(15)).await;
        peer.send(&Frame::text(r#"{"ping":{}}"#)).await;
        assert_eq!(peer.next_text().await.0, r#"{"pong":{}}"#);
    }
    assert_eq!(peer.next_ping().await, 170);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_as_often_as_they_were_asked_for() {
    let every = Some(Duration::from_secs(7));
    let mut peer = Peer::new(Some(After::Latest), every, 65_536);
    peer.is_live().await;
    for n in 1..3 {
        let topic = "other".parse().unwrap();
        let draft = Draft::new(Data::text("moves the head"));
        let head = peer.feed.publish(topic, draft).await.unwrap().id;
        let heartbeat = format!(r#"{{"heartbeat":{{"next":"{head}"}}}}"#);
        assert_eq!(peer.next_text().await, (heartbeat, n * 7));
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_pile_up_for_a_peer_that_does_not_read() {
    let every = Some(Duration::from_secs(1));
    let mut peer = Peer::new(Some(After::Latest), every, 100);
    sleep(AGE - AGE / 5).await;
    let mut queued = 0;
    while let Ok((_, payload, _)) = timeout(Duration::from_millis(1), peer.next()).await {
        queued += payload.len() + 2;
    }
    // As many as the pipe takes, and one.
    assert!(queued <= 200, "{queued} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_subscription_moves_on_with_the_head_even_if_the_peer_talks() {
    let mut peer = Peer::subscribed(65_536);
    peer.is_live().await;
    let draft = Draft::new(Data::text("moves the head"));
    let head = peer.feed.publish("other".parse().unwrap(), draft).await;
    for _ in 0..3 {
        advance(Duration::from_secs(15)).await;
        peer.send(&Frame::text(r#"{"ping":{}}"#)).await;
        peer.next_text().await;
    }
    peer.send(&Frame::text(r#"{"unsubscribe":{"topics":["a"],"ref":1}}"#))
        .await;
    let next = head.unwrap().id;
    let answer = format!(r#"{{"subscribed":{{"ref":1,"next":"{next}"}}}}"#);
    assert_eq!(peer.next_text().await.0, answer);
}

#[tokio::test(start_paused = true)]
async fn a_peer_has_5_s_for_its_part_of_the_closing() {
    let mut peer = Peer::unsubscribed();
    peer.drain.send_replace(true);
    assert_eq!(peer.next_close().await, (1012, 0));
    assert_eq!(peer.ended().await, 5);
    // A peer that answers but does not close its side has 5 s, too.
    let mut peer = Peer::unsubscribed();
    peer.send(&Frame::close(1000, "")).await;
    assert_eq!(peer.next_close().await, (1000, 0));
    assert_eq!(peer.ended().await, 5);
    let mut peer = Peer::unsubscribed();
    peer.send(&Frame {
        rsv: 1,
        ..Frame::text("")
    })
    .await;
    assert_eq!(peer.next_close().await, (1002, 0));
    // No close frame can be found behind a broken frame, so the FIN does not wait for one.
    assert_eq!(peer.io.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(peer.begun.elapsed().as_secs(), 0);
    assert_eq!(peer.ended().await, 5);
}

/// The header of a frame of nearly a gigabyte.
const TOO_LARGE: [u8; 14] = [0x82, 0xff, 0, 0, 0, 0, 0x3f, 0, 0, 0, 1, 2, 3, 4];

/// Firefox reports an unclean close if the FIN comes before it has sent its own close frame.
#[tokio::test(start_paused = true)]
async fn the_fin_comes_behind_the_peers_close_frame_or_after_3_s() {
    let mut peer = Peer::unsubscribed();
    peer.send(&Frame::text(&"x".repeat(65_537))).await;
    assert_eq!(peer.next_close().await, (1009, 0));
    let fin = timeout(Duration::from_secs(2), peer.io.read_u8()).await;
    assert!(fin.is_err(), "no FIN before the close frame");
    peer.send(&Frame::close(1009, "")).await;
    assert_eq!(peer.io.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(peer.begun.elapsed().as_secs(), 2);

    let mut peer = Peer::unsubscribed();
    peer.io.write_all(&TOO_LARGE).await.unwrap();
    assert_eq!(peer.next_close().await, (1009, 0));
    assert_eq!(peer.io.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(peer.begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_fin_comes_after_16_mib_of_the_rest() {
    let mut peer = Peer::unsubscribed();
    peer.io.write_all(&TOO_LARGE).await.unwrap();
    assert_eq!(peer.next_close().await, (1009, 0));
    let mut sent = 0;
    let soon = Duration::from_millis(1);
    while timeout(soon, peer.io.read(&mut [0])).await.is_err() {
        peer.io.write_all(&[0; 65_536]).await.unwrap();
        sent += 65_536;
    }
    let most = 16 * 1024 * 1024;
    assert!((most..=most + 2 * 65_536).contains(&sent), "{sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_reads_is_served_for_ever() {
    let mut peer = Peer::subscribed(100);
    peer.is_live().await;
    for _ in 0..1000 {
        publish(&peer.feed, 300).await;
        while peer.next().await.0 != 1 {}
        peer.io.write_all(&Frame::pong("").encode()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_sends_is_read_as_far_as_its_answers_have_room() {
    let mut peer = Peer::new(None, None, 1000);
    let ping = Frame::text(r#"{"ping":{}}"#).encode();
    let taken = MAX_UNSENT / r#"{"pong":{}}"#.len();
    let mut sent = 0;
    while timeout(Duration::from_secs(1), peer.io.write_all(&ping))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < taken * 2, "it is read without end");
    }
    assert!(
        (taken / 2..taken * 2).contains(&sent),
        "{sent} of about {taken}"
    );
    // When the peer reads, the session reads again.
    peer.next_text().await;
    for _ in 0..sent - 1 {
        assert_eq!(peer.next_text().await.0, r#"{"pong":{}}"#);
    }
}

/// A connection whose peer sends the same frame without end, and reads nothing.
struct Flood {
    frame: Vec<u8>,
    /// How many bytes were read.
    taken: usize,
}

impl AsyncRead for Flood {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while buffer.remaining() > 0 {
            let rest = &self.frame[self.taken % self.frame.len()..];
            let part = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..part]);
            self.taken += part;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// A connection on which a frame can be read from some time on, but nobody is woken for it. So it is there
/// when a timer fires, as after a pause of the whole machine.
struct Unheard {
    frame: Vec<u8>,
    from: Instant,
    said: Vec<u8>,
}

impl AsyncRead for Unheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.frame.is_empty() || Instant::now() < self.from {
            return Poll::Pending;
        }
        buffer.put_slice(&std::mem::take(&mut self.frame));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unheard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.said.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a session says in its life to a peer whose only frame lies there after `wait`.
async fn said(frame: &Frame, wait: Duration, ping: Duration) -> Vec<u8> {
    let io = Unheard {
        frame: frame.encode(),
        from: Instant::now() + wait,
        said: Vec::new(),
    };
    let limits = Limits {
        message: 65_536,
        fragments: 10,
    };
    let socket = Socket::new(io, b"", limits);
    let subprotocol = Subscriptions::new(Feed::new(Retention::default()));
    let sessions = Arc::new(Sessions::new(1, ping, AGE, DRAIN));
    let slot = sessions.slot();
    let mut session = Session::new(sessions, slot, socket, subprotocol, None);
    let (_drain, mut draining) = watch::channel(false);
    session.run(&mut draining).await.unwrap();
    session.get_ref().said.clone()
}

/// `select!` looks at the socket and at the timer in any order.
#[tokio::test(start_paused = true)]
async fn what_lies_in_the_socket_counts_before_the_clock_decides() {
    let publish = Frame::text(r#"{"publish":{"topic":"a","data":1,"ref":1}}"#);
    for _ in 0..50 {
        let said = said(&publish, AGE / 2, AGE * 2).await;
        assert!(said.starts_with(b"\x81"), "the ack is before the close");
    }
    for _ in 0..50 {
        let said = said(&Frame::pong(""), PING * 5 / 4, PING).await;
        let frames = [said[0], said[6], said[12]];
        assert_eq!(frames, [0x89, 0x89, 0x88], "the first ping was answered");
    }
}

/// Answers every message by as many bytes, and counts the answers.
struct Answers {
    size: usize,
    count: usize,
}

impl Subprotocol for &mut Answers {
    async fn handle(&mut self, _: &str) -> Option<String> {
        self.count += 1;
        Some("x".repeat(self.size))
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        pending().await
    }

    async fn heartbeat(&mut self) -> Option<String> {
        None
    }
}

/// What a session holds of messages of `asked` bytes that are answered by `said` bytes: the answers, and
/// what it has read and not answered.
async fn held(asked: usize, said: usize) -> (usize, usize) {
    let frame = Frame::text(&"x".repeat(asked)).encode();
    let length = frame.len();
    let limits = Limits {
        message: 65_536,
        fragments: 10,
    };
    let socket = Socket::new(Flood { frame, taken: 0 }, b"", limits);
    let mut answers = Answers {
        size: said,
        count: 0,
    };
    let sessions = Arc::new(Sessions::new(1, PING, AGE, DRAIN));
    let slot = sessions.slot();
    let mut session = Session::new(sessions, slot, socket, &mut answers, None);
    let (_drain, mut draining) = watch::channel(false);
    let ended = timeout(PING / 2, session.run(&mut draining)).await;
    assert!(ended.is_err(), "a peer that sends is alive");
    let taken = session.get_ref().taken;
    drop(session);
    let header = if said > 125 { 4 } else { 2 };
    (
        answers.count * (said + header),
        taken - answers.count * length,
    )
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_and_does_not_read_holds_64_kib_a_short_read_and_one_answer() {
    for (asked, said) in [(10, 10), (10, 0), (1_000, 1_000), (60_000, 10), (200, 150)] {
        let (queued, unanswered) = held(asked, said).await;
        assert!(
            queued + unanswered <= MAX_UNSENT + 4_096 + said + 4,
            "{asked} answered by {said}: {queued} queued, {unanswered} unanswered"
        );
    }
}

/// One read may then bring more messages than there is room for answers.
#[tokio::test(start_paused = true)]
async fn where_answers_are_longer_68_kib_of_messages_wait_for_their_answers() {
    for (asked, said) in [(1, 2_000), (1, 130), (5_000, 60_000)] {
        let (queued, unanswered) = held(asked, said).await;
        assert!(queued <= MAX_UNSENT + said + 4, "{queued} queued");
        assert!(unanswered <= READ, "{unanswered} unanswered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_holds_a_page_and_hears_of_the_gap_behind_it() {
    let mut peer = Peer::subscribed(1000);
    peer.is_live().await;
    publish(&peer.feed, 1000).await;
    assert!(peer.next_text().await.0.starts_with(r#"{"message":"#));
    for _ in 0..2000 {
        publish(&peer.feed, 1000).await;
        tokio::task::yield_now().await;
    }
    let mut held = 0;
    while peer.next_text().await.0.starts_with(r#"{"message":"#) {
        held += 1;
    }
    assert!(held <= PAGE.bytes / 1000, "{held} messages were held");
    for _ in 0..1000 {
        peer.next_text().await; // what is retained, and one heartbeat
    }
}

#[tokio::test(start_paused = true)]
async fn many_sessions_leave_over_half_of_the_drain_and_few_at_once() {
    let mut latest = 0;
    for _ in 0..20 {
        let mut peer = Peer::unsubscribed();
        // As if nearly all slots were taken.
        let slots = &peer.sessions.slots;
        slots.try_acquire_many(9_990).unwrap().forget();
        peer.drain.send_replace(true);
        let (code, second) = peer.next_close().await;
        assert!(code == 1012 && second <= 5, "{code} after {second} s");
        latest = latest.max(second);
    }
    assert!(latest >= 2, "all left within {latest} s of 5");
    let mut peer = Peer::subscribed(65_536);
    peer.is_live().await;
    peer.feed.close();
    peer.drain.send_replace(true);
    assert_eq!(peer.next_close().await, (1012, 0));
}

/// The first of the two has no news. That must not hide what the second still has to send.
#[tokio::test(start_paused = true)]
async fn at_a_drain_every_subscription_sends_its_last_news_before_the_close() {
    for topic in ["a", "b"] {
        let mut peer = Peer::subscribed(65_536);
        peer.is_live().await;
        peer.send(&Frame::text(r#"{"subscribe":{"topics":["b"],"ref":1}}"#))
            .await;
        peer.is_live().await;
        // Between the news and the drain the session does not run.
        for text in ["one", "two"] {
            let draft = Draft::new(Data::text(text));
            let topic = topic.parse().unwrap();
            peer.feed.publish(topic, draft).await.unwrap();
        }
        peer.feed.close();
        peer.drain.send_replace(true);
        for text in ["one", "two"] {
            let (message, _) = peer.next_text().await;
            assert!(message.contains(text), "{message}");
        }
        assert_eq!(peer.next_close().await, (1012, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_byte_of_its_close_is_reset_after_5_s() {
    let mut peer = Peer::subscribed(100);
    publish(&peer.feed, 1_000).await;
    until(|| peer.feed.waiters() == 0).await; // The page is on its way, and stuck.
    peer.drain.send_replace(true);
    assert_eq!(peer.ends_as(Err(Stalled)).await, 5);
    // A peer that takes its page is not reset.
    let mut peer = Peer::subscribed(100);
    peer.is_live().await;
    peer.drain.send_replace(true);
    peer.next_close().await;
    assert_eq!(peer.ended().await, 5);
}

/// Lets the session run until something holds. Time stands still meanwhile.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not hold after 10,000 turns of the session");
}

#[tokio::test(start_paused = true)]
async fn a_publish_is_handled_when_the_one_before_is_acknowledged_and_while_acks_have_room() {
    let mut peer = Peer::new(None, None, 1_000);
    let publish = Frame::text(r#"{"publish":{"topic":"a","data":1,"ref":1}}"#).encode();
    let ack = r#"{"ack":{"ref":1,"id":"-1","duplicate":false}}"#.len() + 12;
    let mut sent = 0;
    while timeout(Duration::from_secs(1), peer.io.write_all(&publish))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 2 * MAX_UNSENT / ack, "it is handled without end");
    }
    // A publish is handled only when there is room for its ack, so the unsent acks stay within the limit.
    let published = peer.feed.head().seq as usize;
    let owed = published * ack;
    assert!(owed <= MAX_UNSENT + 2_000, "{owed} bytes of acks");
    assert!(owed >= MAX_UNSENT * 3 / 4, "{owed} bytes of acks");
    for n in 1..=published {
        let (ack, _) = peer.next_text().await;
        assert!(
            ack.contains(&format!("-{n}\",\"duplicate\":false")),
            "{ack}"
        );
    }
}
