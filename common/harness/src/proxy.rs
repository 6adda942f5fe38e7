//! A TCP proxy that breaks the network on command, in each direction separately.

use std::{
    collections::VecDeque,
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, Bytes};
use common::accept_failed;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep_until},
};

use super::wire::{abort_on_close, socket_for};

/// The most bytes of one read.
const CHUNK: usize = 16 * 1024;

/// The most bytes that a delayed direction holds. Beyond that, it reads no more.
const IN_FLIGHT: usize = 1024 * 1024;

/// The size of receive buffers: small, so that a sender soon notices that the proxy does not read.
const RECEIVE: u32 = 64 * 1024;

/// What the network does to the bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Everything arrives, including half-closes and resets.
    #[default]
    Pass,
    /// Everything arrives, one byte per write.
    ByteAtATime,
    /// Everything arrives in order, but this much later.
    Delay(Duration),
    /// Nothing is read or forwarded until another fault is set.
    Stall,
    /// Both connections are reset (RST).
    Reset,
    /// The receiver gets a FIN. Everything that comes after it is discarded, even under a later fault. The
    /// other direction goes on.
    HalfClose,
    /// This many more bytes arrive. Then both connections are closed, and a peer that still sends gets a
    /// reset.
    CutAfter(u64),
    /// Everything is read and nothing arrives, not even a FIN.
    Blackhole,
}

/// The fault of each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// From the client to the upstream.
    pub up: Fault,
    /// From the upstream to the client.
    pub down: Fault,
}

/// A proxy in front of one upstream. Dropping it closes its connections.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    faults: watch::Sender<Faults>,
    /// Changes when all open connections must close.
    dropped: watch::Sender<()>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
}

/// What all connections share.
#[derive(Debug, Clone)]
struct Network {
    upstream: SocketAddr,
    faults: watch::Receiver<Faults>,
    dropped: watch::Receiver<()>,
    counters: Arc<Counters>,
}

/// One direction of one connection.
#[derive(Debug)]
struct Direction<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    way: Way,
    faults: watch::Receiver<Faults>,
    /// The fault that applies now.
    fault: Fault,
    delivered: &'a AtomicU64,
    /// What was read, and when to deliver it. An empty entry stands for the FIN.
    queue: VecDeque<(Instant, Bytes)>,
    /// How many bytes [`Fault::CutAfter`] still lets through.
    allowance: u64,
    /// The sender has ended.
    source_ended: bool,
    /// The FIN is queued or delivered, so nothing more may follow.
    ending: bool,
    /// The FIN is delivered.
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// Why a connection ended before both directions had their FIN.
#[derive(Debug, Clone, Copy)]
enum Severed {
    Cut,
    Reset,
}

impl From<Fault> for Faults {
    /// The same fault in both directions.
    fn from(fault: Fault) -> Self {
        Self {
            up: fault,
            down: fault,
        }
    }
}

impl Faults {
    /// A fault only on the way to the upstream.
    pub fn up(fault: Fault) -> Self {
        Self {
            up: fault,
            down: Fault::Pass,
        }
    }

    /// A fault only on the way back.
    pub fn down(fault: Fault) -> Self {
        Self {
            up: Fault::Pass,
            down: fault,
        }
    }
}

impl FaultProxy {
    /// Listens on a free port. Forwards each connection over a new connection to `upstream`. If `upstream`
    /// refuses, the client is reset.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn start(upstream: SocketAddr, faults: impl Into<Faults>) -> Self {
        let listener = listen().expect("a port is free");
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (faults, faults_seen) = watch::channel(faults.into());
        let (dropped, dropped_seen) = watch::channel(());
        let counters = Arc::<Counters>::default();
        let network = Network {
            upstream,
            faults: faults_seen,
            dropped: dropped_seen,
            counters: counters.clone(),
        };
        let task = tokio::spawn(accept_all(listener, network));
        Self {
            addr,
            faults,
            dropped,
            counters,
            task,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the faults of all connections, open and future. A single [`Fault`] applies to both directions.
    pub fn set(&self, faults: impl Into<Faults>) {
        self.faults.send_replace(faults.into());
    }

    /// Closes all open connections. New ones are accepted.
    pub fn drop_all(&self) {
        self.dropped.send_replace(());
    }

    /// Bytes delivered to the upstream, over all connections.
    pub fn bytes_up(&self) -> u64 {
        self.counters.up.load(Relaxed)
    }

    /// Bytes delivered to clients, over all connections.
    pub fn bytes_down(&self) -> u64 {
        self.counters.down.load(Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(1024)
}

async fn accept_all(listener: TcpListener, network: Network) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                connections.spawn(forward(client, network.for_new_connection()));
            }
            Err(error) => accept_failed(error).await,
        }
        // Frees the tasks that have ended.
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, from its first byte to its last.
async fn forward(mut client: TcpStream, network: Network) {
    let Ok(mut server) = connect(network.upstream, &client).await else {
        return reset(&client);
    };
    let mut dropped = network.dropped.clone();
    let outcome = tokio::select! {
        outcome = both_ways(&mut client, &mut server, &network) => outcome,
        _ = dropped.changed() => Err(Severed::Cut),
    };
    match outcome {
        Ok(()) => {}
        Err(Severed::Cut) => [client, server].iter().for_each(discard_unread),
        Err(Severed::Reset) => [client, server].iter().for_each(reset),
    }
}

async fn connect(upstream: SocketAddr, client: &TcpStream) -> io::Result<TcpStream> {
    client.set_nodelay(true)?;
    let socket = socket_for(upstream)?;
    socket.set_recv_buffer_size(RECEIVE)?;
    let server = socket.connect(upstream).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// Ends when both directions have ended, or when one of them severs the connection.
async fn both_ways(
    client: &mut TcpStream,
    server: &mut TcpStream,
    network: &Network,
) -> Result<(), Severed> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = Direction::new(from_client, to_server, network, Way::Up);
    let down = Direction::new(from_server, to_client, network, Way::Down);
    tokio::try_join!(up.run(), down.run()).map(drop)
}

/// Unread bytes would turn the close into a reset, and a reset may destroy bytes that were delivered.
fn discard_unread(stream: &TcpStream) {
    let mut unread = [0; CHUNK];
    while matches!((&*SockRef::from(stream)).read(&mut unread), Ok(1..)) {}
}

fn reset(stream: &TcpStream) {
    // It fails only on a socket that is closed already.
    let _ = abort_on_close(stream);
}

impl Network {
    /// For a connection that begins now: an earlier [`FaultProxy::drop_all`] does not close it.
    fn for_new_connection(&self) -> Self {
        self.counters.connections.fetch_add(1, Relaxed);
        let mut network = self.clone();
        network.dropped.mark_unchanged();
        network
    }
}

impl Way {
    fn pick<T>(self, up: T, down: T) -> T {
        match self {
            Self::Up => up,
            Self::Down => down,
        }
    }
}

impl<'a> Direction<'a> {
    fn new(from: ReadHalf<'a>, to: WriteHalf<'a>, network: &'a Network, way: Way) -> Self {
        Self {
            from,
            to,
            way,
            faults: network.faults.clone(),
            fault: Fault::Pass,
            delivered: way.pick(&network.counters.up, &network.counters.down),
            queue: VecDeque::new(),
            allowance: 0,
            source_ended: false,
            ending: false,
            ended: false,
        }
    }

    async fn run(mut self) -> Result<(), Severed> {
        let mut chunk = vec![0; CHUNK];
        self.apply_fault()?;
        while !(self.source_ended && self.ended) {
            let (reads, most) = (self.reads(), self.writes());
            tokio::select! {
                Ok(()) = self.faults.changed() => self.apply_fault()?,
                read = self.from.read(&mut chunk), if reads => self.take(&chunk[..read?]),
                sent = deliver(&mut self.to, self.queue.front(), most), if most > 0 => self.sent(sent?)?,
                else => return Err(Severed::Cut),
            }
        }
        Ok(())
    }

    /// Applies the fault that is set, if it has changed.
    fn apply_fault(&mut self) -> Result<(), Severed> {
        let Faults { up, down } = *self.faults.borrow_and_update();
        let fault = self.way.pick(up, down);
        if fault == self.fault {
            return Ok(());
        }
        self.fault = fault;
        match fault {
            Fault::Reset => return Err(Severed::Reset),
            Fault::CutAfter(0) => return Err(Severed::Cut),
            Fault::CutAfter(count) => self.allowance = count,
            Fault::HalfClose => self.end(),
            Fault::Blackhole => self.queue.clear(),
            Fault::Pass | Fault::ByteAtATime | Fault::Delay(_) | Fault::Stall => {}
        }
        Ok(())
    }

    /// Whether to read more. Only a delay reads ahead. Otherwise a slow receiver slows the sender down, as on
    /// a bare connection.
    fn reads(&self) -> bool {
        match self.fault {
            _ if self.source_ended => false,
            Fault::Stall | Fault::Reset => false,
            Fault::Blackhole | Fault::HalfClose => true,
            Fault::Delay(_) => self.queued() < IN_FLIGHT,
            Fault::Pass | Fault::ByteAtATime | Fault::CutAfter(_) => {
                self.queue.is_empty() || self.ending
            }
        }
    }

    fn queued(&self) -> usize {
        self.queue.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// How many bytes may be delivered at once.
    fn writes(&self) -> usize {
        match self.fault {
            _ if self.queue.is_empty() => 0,
            Fault::Stall | Fault::Reset | Fault::Blackhole => 0,
            Fault::ByteAtATime => 1,
            Fault::CutAfter(_) => usize::try_from(self.allowance).unwrap_or(usize::MAX),
            Fault::Pass | Fault::Delay(_) | Fault::HalfClose => usize::MAX,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.source_ended |= bytes.is_empty();
        match self.fault {
            Fault::Blackhole => {}
            _ if bytes.is_empty() => self.end(),
            _ if self.ending => {}
            _ => self
                .queue
                .push_back((self.due(), Bytes::copy_from_slice(bytes))),
        }
    }

    fn end(&mut self) {
        if !self.ending {
            self.ending = true;
            self.queue.push_back((self.due(), Bytes::new()));
        }
    }

    fn due(&self) -> Instant {
        match self.fault {
            Fault::Delay(delay) => Instant::now() + delay,
            _ => Instant::now(),
        }
    }

    fn sent(&mut self, count: usize) -> Result<(), Severed> {
        self.delivered.fetch_add(count as u64, Relaxed);
        let (_, front) = self
            .queue
            .front_mut()
            .expect("what was sent is at the front");
        self.ended = front.is_empty();
        front.advance(count);
        if front.is_empty() {
            self.queue.pop_front();
        }
        self.allowance = self.allowance.saturating_sub(count as u64);
        let spent = matches!(self.fault, Fault::CutAfter(_)) && self.allowance == 0;
        if spent { Err(Severed::Cut) } else { Ok(()) }
    }
}

impl From<io::Error> for Severed {
    /// A broken connection on one side is a reset on the other.
    fn from(_: io::Error) -> Self {
        Self::Reset
    }
}

/// Sends a part of the first entry when it is due. Cancel-safe.
async fn deliver(
    to: &mut WriteHalf<'_>,
    front: Option<&(Instant, Bytes)>,
    most: usize,
) -> io::Result<usize> {
    let Some((due, bytes)) = front else {
        return Ok(0);
    };
    if *due > Instant::now() {
        // Only then: the timer rounds up to a millisecond, which would add a delay.
        sleep_until(*due).await;
    }
    if bytes.is_empty() {
        to.shutdown().await?;
        return Ok(0);
    }
    if most == 1 {
        // Lets the receiver read the previous byte separately.
        yield_now().await;
    }
    to.write(&bytes[..most.min(bytes.len())]).await
}
