//! Streams that wait for the same news wait together, and get the same bytes.
//!
//! ```text
//!  a stream's task: hyper, the replay ──── has caught up ────▶ a group: one task, one reader, a list of sockets
//!                 ▲                                                      │ on news and heartbeats: one read,
//!                 │                                                      │ one encoding, one write per socket
//!                 └── is slow, is behind, is too old, the feed ended ────┘
//! ```
//!
//! A waiting stream is an [`Entry`] in a list, not a task. A group writes to each socket without waiting. If a
//! socket takes only a part, its entry goes back to a task with the rest. So one slow client never delays the
//! others. An entry whose stream must end goes back to a task too, so all ends are written in one place.
//!
//! A publisher never waits for a group. A group that is slower than its publishers is one slow reader of the
//! feed: it gets a gap for what it missed, and so do all its streams.

use std::{
    cmp::Ordering,
    collections::HashMap,
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, Weak},
    thread,
    time::Duration,
};

use bytes::Bytes;
use common::{Activity, FeedError, Spawner, StallGuard};
use mio::{Events, Interest, Poll, Registry, Token, Waker, net::TcpStream as MioStream};
use slab::Slab;
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit},
    task::yield_now,
    time::Instant,
};
use tracing::{debug, error, trace};

use super::{OpenStream, framed};
use crate::stream::{Reader, State, Subscriber, Subscription};

/// All groups of a server.
pub(crate) struct Groups {
    /// A client whose socket accepts no data for this long is disconnected.
    stall: Duration,
    spawner: Spawner,
    /// Reports broken connections to [`watch`].
    registry: Registry,
    /// Ends [`watch`].
    waker: Arc<Waker>,
    mail: Mutex<Mail>,
}

/// The mailboxes of all groups, behind one lock.
#[derive(Default)]
struct Mail {
    /// Each group's number.
    numbers: HashMap<Key, usize>,
    /// By the group's number.
    boxes: Slab<Mailbox>,
}

/// The streams of a group have the same subscription, and are all chunked or all not.
type Key = (Subscription, bool);

/// What a group has to handle.
#[derive(Default)]
struct Mailbox {
    joiners: Vec<OpenStream>,
    /// Entries whose connection may be broken.
    broken: Vec<usize>,
    /// Notified when something is added.
    has_mail: Arc<Notify>,
}

impl Groups {
    /// Starts without a group, and with a thread that waits for broken connections.
    pub(crate) fn new(spawner: Spawner, stall: Duration) -> io::Result<Arc<Self>> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(usize::MAX))?);
        let groups = Arc::new(Self {
            stall,
            spawner,
            registry: poll.registry().try_clone()?,
            waker: waker.clone(),
            mail: Mutex::default(),
        });
        let watched = Arc::downgrade(&groups);
        thread::Builder::new()
            .name(WATCH.to_owned())
            .spawn(move || {
                // Dropping the last share of the waker would take its wake-up back.
                let _waker = waker;
                watch(poll, &watched);
            })?;
        Ok(groups)
    }

    /// Lets a stream wait with its group.
    pub(super) fn join(self: &Arc<Self>, stream: OpenStream) {
        if let Some(mut group) = self.deliver(stream) {
            // Borrowed, not moved: a value moved across an await is stored twice in the future
            // (rust-lang/rust#62958).
            self.spawner.spawn(async move { group.run().await });
        }
    }

    /// Puts a stream into the mailbox of its group. If there is no such group, returns a new one to run.
    fn deliver(self: &Arc<Self>, stream: OpenStream) -> Option<Group> {
        let (reader, is_chunked) = (&stream.subscriber.reader, stream.is_chunked);
        let key = (reader.subscription.clone(), is_chunked);
        let mut mail = self.mail();
        if let Some(number) = mail.numbers.get(&key).copied() {
            let mailbox = &mut mail.boxes[number];
            mailbox.joiners.push(stream);
            mailbox.has_mail.notify_one();
            return None;
        }
        let reader = reader.clone();
        let mailbox = Mailbox {
            joiners: vec![stream],
            ..Mailbox::default()
        };
        let has_mail = mailbox.has_mail.clone();
        let number = mail.boxes.insert(mailbox);
        mail.numbers.insert(key, number);
        Some(Group {
            groups: self.clone(),
            number,
            is_chunked,
            reader,
            entries: Slab::with_capacity(1),
            has_mail,
        })
    }

    /// Lets a stream go on in a task, which writes `first`.
    fn spawn(self: &Arc<Self>, stream: OpenStream, first: Bytes) {
        self.spawner.spawn(stream.serve(first, self.clone()));
    }

    /// Tells a group that the connection of an entry may be broken.
    fn broke(&self, token: Token) {
        let (number, index) = group_and_entry(token);
        if let Some(mailbox) = self.mail().boxes.get_mut(number) {
            mailbox.broken.push(index);
            mailbox.has_mail.notify_one();
        }
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().expect("nothing panics under this lock")
    }
}

impl Mail {
    fn close(&mut self, number: usize, key: &Key) -> Mailbox {
        self.numbers.remove(key);
        self.boxes.remove(number)
    }
}

/// The name of the thread.
const WATCH: &str = "watch";

/// The thread that waits for broken connections. It is here to save memory: tokio keeps several hundred bytes
/// for each socket that it watches, and mio none. A client that only closes its sending side is not broken
/// (RFC 9112 §9.6).
fn watch(mut poll: Poll, groups: &Weak<Groups>) {
    let mut events = Events::with_capacity(1_024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return error!(%error, "broken connections are not seen until something is written");
            }
            _ => {}
        }
        let Some(groups) = groups.upgrade() else {
            return;
        };
        for event in &events {
            if event.is_error() || event.is_write_closed() {
                groups.broke(event.token());
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // It fails only if the thread has ended.
        let _ = self.waker.wake();
    }
}

/// Streams that are at the same position and wait for news.
struct Group {
    groups: Arc<Groups>,
    number: usize,
    is_chunked: bool,
    /// Reads for all entries: its position is that of each entry. Its `end_at` is never after that of an entry.
    reader: Reader,
    entries: Slab<Entry>,
    /// Notified when there is mail.
    has_mail: Arc<Notify>,
}

/// A stream that waits.
struct Entry {
    socket: MioStream,
    end_at: Instant,
    slot: OwnedSemaphorePermit,
    activity: Activity,
}

impl Group {
    /// Runs until no entry is left.
    async fn run(&mut self) {
        loop {
            self.read_mail();
            if self.entries.is_empty() {
                return self.close();
            }
            let next = tokio::select! {
                biased; // News first, so that the group catches up with a joiner that has sent them already.
                next = self.reader.next() => next,
                () = self.has_mail.notified() => continue,
            };
            match next {
                Ok(Some(blocks)) => self.write(blocks).await,
                Ok(None) => self.release_aged().await,
                Err(error) => {
                    // If the feed failed, each stream first reads it once more in its task.
                    self.reader.is_live = error == FeedError::Closed;
                    self.release_each(|_| true).await;
                }
            }
        }
    }

    /// Lets streams join, and drops those whose connection is broken.
    fn read_mail(&mut self) {
        let (joiners, broken) = self.take_mail();
        for index in broken {
            // The report may be about an earlier entry with this index, so ask the socket.
            let entry = self.entries.get(index);
            if entry.is_some_and(|entry| !matches!(entry.socket.take_error(), Ok(None))) {
                self.entries.remove(index);
            }
        }
        for stream in joiners {
            self.add(stream);
        }
    }

    fn take_mail(&self) -> (Vec<OpenStream>, Vec<usize>) {
        let mut mail = self.groups.mail();
        let Mailbox {
            joiners, broken, ..
        } = &mut mail.boxes[self.number];
        (mem::take(joiners), mem::take(broken))
    }

    /// Closes the mailbox. Streams that are still in it join the next group.
    fn close(&self) {
        let mailbox = self.groups.mail().close(self.number, &self.key());
        for stream in mailbox.joiners {
            self.groups.spawn(stream, Bytes::new());
        }
    }

    fn key(&self) -> Key {
        (self.reader.subscription.clone(), self.is_chunked)
    }

    /// Adds a stream that is where the group is. If a message lay between them, it would be lost or be sent
    /// twice.
    fn add(&mut self, mut stream: OpenStream) {
        match stream.subscriber.reader.order(&self.reader) {
            Ordering::Equal => {
                if let Err(error) = self.add_entry(stream) {
                    debug!(%error, "stream ended");
                }
            }
            // The stream has sent news that the group reads next. Until then it stays in the mailbox.
            Ordering::Greater => self.groups.mail().boxes[self.number].joiners.push(stream),
            // The stream has missed news: it catches up in a task, and then joins again.
            Ordering::Less => {
                stream.subscriber.reader.is_live = false;
                self.groups.spawn(stream, Bytes::new());
            }
        }
    }

    fn add_entry(&mut self, stream: OpenStream) -> io::Result<()> {
        let socket = stream.socket.into_inner().into_std()?;
        let mut socket = MioStream::from_std(socket);
        let place = self.entries.vacant_entry();
        let token = token(self.number, place.key());
        let registry = &self.groups.registry;
        registry.register(&mut socket, token, Interest::READABLE)?;
        let Subscriber { reader, slot, .. } = stream.subscriber;
        self.reader.end_at = self.reader.end_at.min(reader.end_at);
        place.insert(Entry {
            socket,
            end_at: reader.end_at,
            slot,
            activity: stream.activity,
        });
        Ok(())
    }

    /// Writes the same bytes to all.
    async fn write(&mut self, blocks: Vec<u8>) {
        let bytes = Bytes::from(framed(blocks, self.is_chunked));
        trace!(count.deliveries = self.reader.messages * self.entries.len());
        for index in 0..self.entries.capacity() {
            pace(index).await;
            let Some(entry) = self.entries.get_mut(index) else {
                continue;
            };
            match entry.socket.write(&bytes) {
                Ok(written) if written == bytes.len() => {}
                Ok(written) => self.release(index, bytes.slice(written..)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.release(index, bytes.clone());
                }
                Err(error) => {
                    debug!(%error, "stream ended");
                    self.entries.remove(index);
                }
            }
        }
        // The others took a part or nothing, and went back to their tasks.
        trace!(count.sent_bytes = bytes.len() * self.entries.len());
    }

    async fn release_aged(&mut self) {
        let now = Instant::now();
        self.release_each(|entry| entry.end_at <= now).await;
        let ends = self.entries.iter().map(|(_, entry)| entry.end_at);
        self.reader.end_at = ends.min().unwrap_or(now);
    }

    /// Gives these entries back to their tasks.
    async fn release_each(&mut self, leaves: impl Fn(&Entry) -> bool) {
        for index in 0..self.entries.capacity() {
            pace(index).await;
            if self.entries.get(index).is_some_and(&leaves) {
                self.release(index, Bytes::new());
            }
        }
    }

    /// Gives an entry back to a task, which writes `rest` first.
    fn release(&mut self, index: usize, rest: Bytes) {
        let mut entry = self.entries.remove(index);
        let mut reader = self.reader.clone();
        reader.end_at = entry.end_at;
        let deregistered = self.groups.registry.deregister(&mut entry.socket);
        match deregistered.and_then(|()| TcpStream::from_std(entry.socket.into())) {
            Ok(socket) => {
                let stream = OpenStream {
                    socket: StallGuard::new(socket, self.groups.stall),
                    is_chunked: self.is_chunked,
                    subscriber: Subscriber {
                        reader,
                        slot: entry.slot,
                        state: State::Open,
                    },
                    activity: entry.activity,
                };
                self.groups.spawn(stream, rest);
            }
            Err(error) => debug!(%error, "stream ended"),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if thread::panicking() {
            error!(
                streams = self.entries.len(),
                "a group failed, and its streams end"
            );
            self.groups.mail().close(self.number, &self.key());
        }
    }
}

/// The upper half of a token is the number of a group, the lower half the number of an entry.
const TOKEN_HALF: u32 = usize::BITS / 2;

fn token(group: usize, entry: usize) -> Token {
    Token(group << TOKEN_HALF | entry)
}

fn group_and_entry(Token(token): Token) -> (usize, usize) {
    (token >> TOKEN_HALF, token & ((1 << TOKEN_HALF) - 1))
}

/// After this many entries, a group's task yields to other tasks. A write takes about 8 µs, so they wait half a
/// millisecond. tokio's own budget is 128.
const BATCH: usize = 64;

async fn pace(index: usize) {
    if index % BATCH == BATCH - 1 {
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, time::SystemTime};

    use common::{
        Connections, Data, Draft, Epoch, Feed, Page, Published, Retention,
        feed::{
            log::Log,
            store::{LiveLog, PartialPage, Publish, Store, StoreFuture},
        },
    };
    use hyper::Request;
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpSocket},
        time::timeout,
    };

    use super::*;
    use crate::{Config, route::App};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Groups of a server without an accept loop.
    struct Server {
        connections: Connections,
        listener: TcpListener,
        app: App,
    }

    impl Server {
        async fn start() -> Self {
            Self::start_with(Feed::new(Retention::default())).await
        }

        async fn start_with(feed: Feed) -> Self {
            let connections = Connections::new(100);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let config = Config {
                heartbeat: Duration::from_secs(3_600), // a heartbeat would show which clients have left, too
                ..Config::default()
            };
            let app = App::new(feed, config, &listener, connections.spawner()).unwrap();
            Self {
                connections,
                listener,
                app,
            }
        }

        fn groups(&self) -> &Arc<Groups> {
            self.app.groups.as_ref().unwrap()
        }

        /// A stream that has caught up, and its client.
        async fn stream(&self, topic: &str) -> (OpenStream, TcpStream) {
            let client = TcpSocket::new_v4().unwrap();
            let client = client.connect(self.listener.local_addr().unwrap());
            let (client, accepted) = tokio::join!(client, self.listener.accept());
            let request = Request::get("/").body(()).unwrap();
            let answer = self.app.streams.subscribe(topic, &request).unwrap();
            let http_body_util::Either::Right(mut subscriber) = answer.into_body() else {
                panic!("there are slots");
            };
            while !subscriber.waits() {
                subscriber.next().await.unwrap();
            }
            let stream = OpenStream {
                socket: StallGuard::new(accepted.unwrap().0, PATIENCE),
                is_chunked: false,
                subscriber,
                activity: self.connections.activity(),
            };
            (stream, client.unwrap())
        }

        async fn publish(&self) {
            let draft = Draft::new(Data::text("news"));
            self.app
                .feed
                .publish("a".parse().unwrap(), draft)
                .await
                .unwrap();
        }

        /// Runs the tasks until `done`.
        async fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
            let run = async {
                while !done(self) {
                    let _ = timeout(Duration::from_millis(1), self.connections.changed()).await;
                }
            };
            timeout(PATIENCE, run).await.expect("it happens in time");
        }

        fn open_groups(&self) -> usize {
            self.groups().mail().boxes.len()
        }
    }

    async fn reads(client: &mut TcpStream) -> String {
        let mut bytes = [0; 1_024];
        let read = timeout(PATIENCE, client.read(&mut bytes)).await;
        let read = read.expect("it is told in time").unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    /// Some may remain: those of the servers that other tests have. Each has two descriptors, of perhaps 256.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_thread_of_a_dropped_server_ends() {
        const DROPPED: usize = 40;
        let connections = Connections::new(1);
        for _ in 0..DROPPED {
            drop(Groups::new(connections.spawner(), PATIENCE).unwrap());
        }
        let few = async {
            while threads(WATCH) > DROPPED / 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, few).await.expect("they end");
    }

    /// How many threads of this process have this name.
    #[cfg(target_os = "linux")]
    fn threads(name: &str) -> usize {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let names = threads.filter_map(|thread| {
            let comm = thread.ok()?.path().join("comm");
            std::fs::read_to_string(comm).ok()
        });
        names.filter(|comm| comm.trim_end() == name).count()
    }

    #[tokio::test]
    async fn a_panic_ends_the_streams_of_its_group_and_the_next_one_begins_another() {
        let mut server = Server::start().await;
        let (stream, mut client) = server.stream("a").await;
        let group = server.groups().deliver(stream).expect("it is the first");
        let (stream, mut joiner) = server.stream("a").await;
        server.groups().join(stream);
        server.connections.spawner().spawn(async move {
            let _fails = group;
            panic!("a test's");
        });
        server.run_until(|server| server.open_groups() == 0).await;
        for client in [&mut client, &mut joiner] {
            assert_eq!(reads(client).await, "", "it is closed");
        }

        let (stream, mut client) = server.stream("a").await;
        server.groups().join(stream);
        server
            .run_until(|server| server.app.feed.waiters() == 1)
            .await;
        server.publish().await;
        server
            .run_until(|server| server.app.feed.waiters() == 1)
            .await;
        assert!(reads(&mut client).await.contains("news"));
    }

    #[tokio::test]
    async fn a_group_ends_with_its_last_stream() {
        let mut server = Server::start().await;
        let mut clients = Vec::new();
        for topic in ["a", "a", "b"] {
            let (stream, client) = server.stream(topic).await;
            server.groups().join(stream);
            clients.push(client);
        }
        server
            .run_until(|server| server.app.feed.waiters() == 2)
            .await;
        assert_eq!(server.open_groups(), 2);
        for (client, left) in clients.into_iter().zip([2, 1, 0]) {
            client.set_zero_linger().unwrap();
            drop(client);
            server
                .run_until(|server| server.open_groups() == left)
                .await;
            assert_eq!(server.app.feed.waiters(), left);
        }
    }

    #[tokio::test]
    async fn a_stream_that_comes_as_its_group_closes_waits_in_the_next_one() {
        let mut server = Server::start().await;
        let (stream, mut client) = server.stream("a").await;
        let group = server.groups().deliver(stream).expect("it is the first");
        group.close();
        server
            .run_until(|server| server.app.feed.waiters() == 1)
            .await;
        assert_eq!(server.open_groups(), 1);
        server.publish().await;
        server
            .run_until(|server| server.app.feed.waiters() == 1)
            .await;
        assert!(reads(&mut client).await.contains("news"));
    }

    /// Keeps no message in memory, and cannot read one back.
    struct Unreadable(Arc<LiveLog>);

    impl Store for Unreadable {
        fn publish(&self, publish: Publish) -> StoreFuture<'_, Published> {
            let Publish { topic, draft, .. } = publish;
            let append =
                |log: &mut Log| log.append(topic, draft, Instant::now(), SystemTime::now());
            let id = self.0.change(append);
            Box::pin(ready(id.map(|id| Published {
                id,
                duplicate: false,
            })))
        }

        fn complete(&self, _: PartialPage) -> StoreFuture<'_, Option<Page>> {
            Box::pin(async {
                yield_now().await;
                Err(FeedError::Unreadable("a test's".into()))
            })
        }

        fn health(&self) -> Result<(), FeedError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_feed_that_fails_ends_its_group_but_not_a_stream_that_was_ahead_of_it() {
        let retention = Retention {
            in_memory: 0,
            ..Retention::default()
        };
        let log = Arc::new(LiveLog::new(Log::new(Epoch::random(), retention)));
        let feed = Feed::with_store(log.clone(), Arc::new(Unreadable(log)));
        let mut server = Server::start_with(feed).await;
        let (stream, mut client) = server.stream("a").await;
        let mut group = server.groups().deliver(stream).expect("it is the first");
        server.publish().await;
        let (ahead, _client) = server.stream("a").await;
        server.groups().join(ahead);
        timeout(PATIENCE, group.run()).await.expect("it ends");
        assert_eq!(server.open_groups(), 0);

        server
            .run_until(|server| server.app.feed.waiters() == 1)
            .await;
        assert!(reads(&mut client).await.contains("going away"));
        assert_eq!(server.open_groups(), 1, "the other one waits in the next");
    }

    #[test]
    fn what_a_waiting_stream_costs_is_small() {
        // Ten thousand may be open.
        assert!(size_of::<Entry>() <= 56);
    }
}
