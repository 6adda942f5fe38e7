//! A bare TCP connection: literal bytes in, literal bytes out, and every way to end it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::BytesMut;
#[cfg(target_os = "linux")]
use socket2::SockFilter;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::yield_now,
};

use super::{
    Wait,
    body::{self, Body},
    end_of,
};

/// The free space in the buffer before each read, at least.
const CHUNK: usize = 16 * 1024;

/// How many of the last bytes a failed wait shows.
const TAIL: usize = 4096;

/// A raw connection. The test writes every byte itself.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// Received, but not returned yet.
    pub(super) buffer: BytesMut,
    /// The last bytes received, returned or not. A failed wait shows them.
    tail: Vec<u8>,
    ended: Option<End>,
}

/// A listening socket. The test plays the server, and writes every byte itself.
#[derive(Debug)]
pub struct WireListener(TcpListener);

/// How the other side ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By a FIN: it sends no more.
    Eof,
    /// By a reset (RST).
    Reset,
}

/// One answer, with its unchanged head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawResponse {
    /// The status line and header fields with their line ends, including the empty line.
    pub head: String,
    /// The status code.
    pub status: u16,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr)
            .await
            .unwrap_or_else(|error| panic!("connecting to {addr}: {error}"))
    }

    /// Connects to a server that may be gone.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub async fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = Wait::until(format!("a connection to {addr}"))
            .patiently(TcpStream::connect(addr))
            .await?;
        Self::over(stream)
    }

    /// Connects with a receive buffer of about `receive` bytes, so that the peer soon notices when the test does
    /// not read.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub async fn connect_narrow(addr: SocketAddr, receive: u32) -> Self {
        let connect = async {
            let socket = socket_for(addr)?;
            socket.set_recv_buffer_size(receive)?;
            Self::over(socket.connect(addr).await?)
        };
        let wire = Wait::until(format!("a connection to {addr}"))
            .patiently(connect)
            .await;
        wire.unwrap_or_else(|error| panic!("connecting to {addr}: {error}"))
    }

    /// A connection that was made or accepted elsewhere.
    ///
    /// # Errors
    ///
    /// If the socket does not take `TCP_NODELAY`.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
            tail: Vec::new(),
            ended: None,
        })
    }

    /// The address of this side.
    ///
    /// # Panics
    ///
    /// If the socket has no address.
    #[track_caller]
    pub fn local_addr(&self) -> SocketAddr {
        self.stream
            .local_addr()
            .expect("a connected socket has an address")
    }

    /// The address of the other side.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    #[track_caller]
    pub fn peer_addr(&self) -> SocketAddr {
        self.stream
            .peer_addr()
            .expect("a connected socket has a peer")
    }

    /// From now on nothing arrives here, not even acknowledgements. The other side sees a peer that vanished without
    /// a FIN or RST. Bytes sent from here still arrive there.
    ///
    /// # Panics
    ///
    /// If the socket takes no filter.
    #[cfg(target_os = "linux")]
    pub fn vanish(&self) {
        const RETURN_CONSTANT: u16 = 0x06; // keep 0 bytes of each packet
        let nothing = SockFilter::new(RETURN_CONSTANT, 0, 0, 0);
        SockRef::from(&self.stream)
            .attach_filter(&[nothing])
            .expect("a socket takes a filter");
    }

    /// Sends these bytes.
    ///
    /// # Panics
    ///
    /// If the peer does not accept them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes)
            .await
            .unwrap_or_else(|error| panic!("sending: {error}"));
    }

    /// Sends these bytes to a peer that may be gone.
    ///
    /// # Errors
    ///
    /// If the peer is gone. A part of the bytes may have been sent.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        let wait = Wait::until(format!("the peer to take {} bytes", bytes.len()));
        match wait.for_event(self.stream.write_all(bytes)).await {
            Some(sent) => sent,
            None => wait.ran_out(&self.tail),
        }
    }

    /// Sends each byte in its own segment, and lets other tasks run in between.
    ///
    /// # Panics
    ///
    /// If the peer does not accept them.
    pub async fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]).await;
            yield_now().await;
        }
    }

    /// Reads as many bytes as `literal` has, and compares.
    ///
    /// # Panics
    ///
    /// If they differ, or if the connection or patience ends first.
    pub async fn expect(&mut self, literal: impl AsRef<[u8]>) {
        let literal = literal.as_ref();
        let wait = Wait::until(format!("\"{}\"", literal.escape_ascii()));
        while self.buffer.len() < literal.len()
            && literal.starts_with(&self.buffer)
            && self.fill(&wait).await
        {}
        let came = self.buffer.split_to(literal.len().min(self.buffer.len()));
        assert!(
            *came == *literal,
            "unexpected bytes{}\n expected: \"{}\"\n received: \"{}\"",
            self.ending(),
            literal.escape_ascii(),
            came.escape_ascii()
        );
    }

    /// Reads up to and including `pattern`.
    ///
    /// # Panics
    ///
    /// If the connection or patience ends first.
    pub async fn read_until(&mut self, pattern: impl AsRef<[u8]>) -> Vec<u8> {
        let pattern = pattern.as_ref();
        let wait = Wait::until(format!("\"{}\"", pattern.escape_ascii()));
        let mut searched = 0;
        loop {
            if let Some(end) = end_of(pattern, &self.buffer[searched..]) {
                return self.buffer.split_to(searched + end).to_vec();
            }
            searched = (self.buffer.len() + 1).saturating_sub(pattern.len());
            self.must_fill(&wait).await;
        }
    }

    /// Reads this many bytes.
    ///
    /// # Panics
    ///
    /// If the connection or patience ends first.
    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let wait = Wait::until(format!("{count} bytes"));
        while self.buffer.len() < count {
            self.must_fill(&wait).await;
        }
        self.buffer.split_to(count).to_vec()
    }

    /// Reads the head of an answer, including the empty line. An answer to `HEAD` has no more.
    ///
    /// # Panics
    ///
    /// As [`Wire::read_until`], and if it is not UTF-8.
    pub async fn read_head(&mut self) -> String {
        String::from_utf8(self.read_until("\r\n\r\n").await).expect("the head is text")
    }

    /// Reads one whole answer, up to the close if that ends its body. An interim answer (1xx) counts as an answer.
    ///
    /// # Panics
    ///
    /// If it is malformed, or if the connection or patience ends before it is complete.
    pub async fn read_response(&mut self) -> RawResponse {
        let head = self.read_head().await;
        let (mut framing, mut body) = (Body::announced_by(&head), BytesMut::new());
        let wait = Wait::until(format!("the body ({framing:?}) to end after {head:?}"));
        loop {
            framing.decode(&mut self.buffer, &mut body);
            if framing.is_complete() || self.has_closed(&framing) {
                return RawResponse {
                    status: body::status(&head),
                    head,
                    body: body.to_vec(),
                };
            }
            if framing.ends_by_closing() {
                self.fill(&wait).await
            } else {
                self.must_fill(&wait).await
            };
        }
    }

    fn has_closed(&self, framing: &Body) -> bool {
        assert!(
            self.ended != Some(End::Reset),
            "reset in the middle of a body; what had arrived: {}",
            self.shown()
        );
        framing.ends_by_closing() && self.ended.is_some()
    }

    /// Closes the sending side (FIN). Reading goes on.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub async fn half_close(&mut self) {
        self.stream
            .shutdown()
            .await
            .expect("a connected socket can be shut for writing");
    }

    /// Resets the connection (RST).
    ///
    /// # Panics
    ///
    /// If the socket does not take `SO_LINGER`.
    #[track_caller]
    pub fn reset(self) {
        abort_on_close(&self.stream).expect("an open socket takes SO_LINGER");
    }

    /// Waits until the other side ends. Returns how it ended, and the bytes that came before.
    ///
    /// # Panics
    ///
    /// If patience ends first.
    pub async fn closed(&mut self) -> (End, Vec<u8>) {
        let wait = Wait::until("the other side to close");
        while self.fill(&wait).await {}
        (
            self.ended.expect("nothing more comes only after an end"),
            self.buffer.split().to_vec(),
        )
    }

    /// Waits until the other side has given up this connection. Looks at the kernel's list of connections instead
    /// of reading, because reading would let the other side go on.
    ///
    /// # Panics
    ///
    /// If it is still open when patience ends.
    #[cfg(target_os = "linux")]
    pub async fn given_up(&self) {
        const ESTABLISHED: &str = "01";
        // The kernel writes an address, and the port in hexadecimal.
        let port = |addr: SocketAddr| format!(":{:04X}", addr.port());
        let (theirs, ours) = (port(self.peer_addr()), port(self.local_addr()));
        let is_open = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&theirs) && fields[2].ends_with(&ours) && fields[3] == ESTABLISHED
        };
        let wait = Wait::until("the other side to give the connection up");
        let gone = async {
            while std::fs::read_to_string("/proc/net/tcp")
                .expect("Linux has a list of connections")
                .lines()
                .any(is_open)
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        wait.patiently(gone).await;
    }

    /// How the other side ended. `None` if it has not.
    pub(super) fn ended(&self) -> Option<End> {
        self.ended
    }

    /// Reads more. `false` at the end.
    pub(super) async fn fill(&mut self, wait: &Wait) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let had = self.buffer.len();
        self.buffer.reserve(CHUNK);
        match wait.for_event(self.stream.read_buf(&mut self.buffer)).await {
            None => wait.ran_out(&self.tail),
            Some(Ok(0)) => self.ended = Some(End::Eof),
            Some(Ok(_)) => self.remember(had),
            Some(Err(error)) if torn_down(&error) => self.ended = Some(End::Reset),
            Some(Err(error)) => panic!("waiting for {}: {error}", wait.what),
        }
        self.ended.is_none()
    }

    pub(super) async fn must_fill(&mut self, wait: &Wait) -> bool {
        let more = self.fill(wait).await;
        assert!(
            more,
            "waiting for {}{}; what had arrived: {}",
            wait.what,
            self.ending(),
            self.shown()
        );
        more
    }

    fn remember(&mut self, had: usize) {
        self.tail.extend_from_slice(&self.buffer[had..]);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    fn ending(&self) -> &'static str {
        match self.ended {
            None => "",
            Some(End::Eof) => ", and then the other side closed",
            Some(End::Reset) => ", and then the other side reset the connection",
        }
    }

    fn shown(&self) -> String {
        format!("\"{}\"", self.tail.escape_ascii())
    }
}

impl WireListener {
    /// Listens on `127.0.0.1:0`.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn bind() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        Self(listener.expect("a port is free"))
    }

    /// Where it listens.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound socket has an address")
    }

    /// The next connection.
    ///
    /// # Panics
    ///
    /// If no connection comes.
    pub async fn accept(&self) -> Wire {
        let wait = Wait::until(format!("a connection to our {}", self.addr()));
        let (stream, _) = wait
            .patiently(self.0.accept())
            .await
            .expect("a listener can accept");
        Wire::over(stream).expect("an open socket takes TCP_NODELAY")
    }
}

impl RawResponse {
    /// The value of the first header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        body::field(&self.head, name)
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// If it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// A socket that can bind or connect to this address.
pub(super) fn socket_for(addr: SocketAddr) -> io::Result<TcpSocket> {
    match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Closing will send a RST.
pub(super) fn abort_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Whether the other side is gone. A write may fail with a broken pipe instead of a reset, depending on the timing.
fn torn_down(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset
    )
}
