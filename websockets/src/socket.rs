//! tungstenite on any `AsyncRead + AsyncWrite`, at the price of a bare socket while it is idle.
//!
//! Its `WebSocketContext` does no I/O of its own: it takes a stream at every call. The stream that it
//! is given here are two buffers, [`Buffers`]: bytes that have come, and bytes to be written. So one
//! read may bring many messages, and one write takes all that was answered to them. Between two
//! messages the context has nothing to remember, and is dropped with every buffer that grew;
//! `boundary.rs` knows when that is. Nothing is in the air between two polls: every future here can
//! be dropped at any await and made again.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use common::StallGuard;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tungstenite::{
    Error, Message,
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            FrameHeader,
            coding::{Control, Data, OpCode},
        },
    },
};

use crate::boundary::Boundary;

/// What one read takes at most.
const READ: usize = 64 * 1024;
/// How much of it tungstenite takes at a time; it clears as much whenever it asks for more.
const READ_BUFFER: usize = 4 * 1024;

thread_local! {
    /// Where the sockets of a thread read to, one after the other.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a message, and of a frame: tungstenite reserves what a frame's header announces.
    pub(crate) message: usize,
    /// Frames of a message.
    pub(crate) fragments: u32,
}

/// A websocket, the server's side.
pub(crate) struct Socket<S> {
    io: S,
    max_message: usize,
    buffers: Buffers,
    /// There may be a message in what has come.
    unread: bool,
    /// None between two messages.
    context: Option<Box<WebSocketContext>>,
    /// A close frame has been seen or sent: the context has to remember it.
    closing: bool,
    /// Frames to be written before [`Buffers::out`], which other sockets may write as well.
    shared: Bytes,
    /// When the last byte came, or the silence was excused.
    heard: Instant,
}

/// A peer that broke [`Limits::fragments`].
#[derive(Debug, thiserror::Error)]
#[error("a message of too many fragments")]
pub(crate) struct TooManyFragments;

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket on an upgraded connection. `early` is what came with the handshake.
    pub(crate) fn new(io: S, early: &[u8], limits: Limits) -> Self {
        Self {
            io,
            max_message: limits.message,
            buffers: Buffers {
                come: Bytes::copy_from_slice(early),
                ended: false,
                boundary: Boundary::new(limits.fragments),
                out: Vec::new(),
            },
            unread: true,
            context: None,
            closing: false,
            shared: Bytes::new(),
            heard: Instant::now(),
        }
    }

    /// So many bytes wait to be written.
    pub(crate) fn unsent(&self) -> usize {
        self.shared.len() + self.buffers.out.len()
    }

    /// Whether there may be a message in what has come.
    pub(crate) fn is_unread(&self) -> bool {
        self.unread
    }

    /// Until when the peer was not silent, or was excused.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// The peer's silence until now does not count.
    pub(crate) fn excuse(&mut self) {
        self.heard = Instant::now();
    }

    /// Queues a text message, as all that is pushed; [`ready`](Self::ready) writes it.
    pub(crate) fn push_text(&mut self, text: &str) {
        frame(
            text.as_bytes(),
            OpCode::Data(Data::Text),
            &mut self.buffers.out,
        );
    }

    /// Queues a ping.
    pub(crate) fn push_ping(&mut self, payload: [u8; 4]) {
        let opcode = OpCode::Control(Control::Ping);
        frame(&payload, opcode, &mut self.buffers.out);
    }

    /// Queues a message of the peer's own to it.
    pub(crate) fn push_back(&mut self, message: &Message) {
        let opcode = OpCode::Data(if message.is_text() {
            Data::Text
        } else {
            Data::Binary
        });
        let payload: &[u8] = match message {
            Message::Text(text) => text.as_ref(),
            Message::Binary(bytes) => bytes,
            _ => return,
        };
        frame(payload, opcode, &mut self.buffers.out);
    }

    /// Queues whole frames, without a copy if they are the first.
    pub(crate) fn push_frames(&mut self, frames: Bytes) {
        if self.unsent() == 0 {
            self.shared = frames;
        } else {
            self.buffers.out.extend_from_slice(&frames);
        }
    }

    /// Resolves when bytes have come, if they are to be read, or when all that was pushed is written.
    pub(crate) async fn ready(&mut self, reading: bool) -> io::Result<()> {
        poll_fn(|task| {
            if reading && (self.unread || self.poll_fill(task)?.is_ready()) {
                return Poll::Ready(Ok(()));
            }
            if self.unsent() == 0 {
                return Poll::Pending;
            }
            self.poll_write(task)
        })
        .await
    }

    /// The next message of what has come.
    pub(crate) fn message(&mut self) -> Option<Result<Message, Error>> {
        if !self.unread {
            return None;
        }
        match self.call(|context, buffers| context.read(buffers)) {
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.unread = false;
                if self.buffers.boundary.at_rest() && !self.closing {
                    self.context = None;
                }
                None
            }
            Ok(message) => {
                self.closing |= message.is_close();
                if matches!(message, Message::Ping(_) | Message::Close(_)) {
                    // The answer is queued in the context. After a close it is the last, and
                    // tungstenite says so by an error.
                    let _ = self.call(|context, buffers| context.flush(buffers));
                }
                Some(Ok(message))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// One call of tungstenite's.
    fn call<T>(&mut self, call: impl FnOnce(&mut WebSocketContext, &mut Buffers) -> T) -> T {
        let max_message = self.max_message;
        let context = self.context.get_or_insert_with(|| context(max_message));
        call(context, &mut self.buffers)
    }

    fn poll_fill(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = Pin::new(&mut self.io);
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(io.poll_read(task, &mut buffer))?;
            self.heard = Instant::now();
            self.buffers.ended = buffer.filled().is_empty();
            self.buffers.come = Bytes::copy_from_slice(buffer.filled());
            self.unread = true;
            Poll::Ready(Ok(()))
        })
    }

    /// Writes all that was pushed.
    fn poll_write(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.shared.has_remaining() {
            let written = ready!(poll_some(&mut self.io, task, &self.shared))?;
            self.shared.advance(written);
        }
        let out = &mut self.buffers.out;
        while !out.is_empty() {
            let written = ready!(poll_some(&mut self.io, task, out))?;
            out.drain(..written);
        }
        self.shared = Bytes::new();
        *out = Vec::new();
        Pin::new(&mut self.io).poll_flush(task)
    }

    /// Writes of what was pushed as much as the socket takes now.
    pub(crate) async fn write_some(&mut self) -> io::Result<()> {
        if self.unsent() == 0 {
            return Ok(());
        }
        poll_fn(|task| match self.poll_write(task) {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Writes all that was pushed, and then a close frame.
    pub(crate) async fn close(&mut self, frame: CloseFrame) -> Result<(), Error> {
        self.closing = true;
        self.call(|context, buffers| context.close(buffers, Some(frame)))?;
        self.finish().await
    }

    /// Reads until both close frames are over, or the peer is gone, and writes what is left.
    pub(crate) async fn handshake(&mut self) -> Result<(), Error> {
        while self.receive().await.is_ok() {}
        self.finish().await
    }

    async fn receive(&mut self) -> Result<(), Error> {
        self.ready(true).await?;
        self.message().transpose()?;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Error> {
        Ok(poll_fn(|task| self.poll_write(task)).await?)
    }

    /// Says that nothing more will be written (FIN).
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|task| Pin::new(&mut self.io).poll_shutdown(task)).await
    }

    /// Reads to the end, and understands nothing of it.
    pub(crate) async fn discard(&mut self) -> io::Result<()> {
        while !self.buffers.ended {
            poll_fn(|task| self.poll_fill(task)).await?;
        }
        Ok(())
    }
}

impl<S: Reset> Socket<S> {
    /// Drops the connection together with what the peer did not take.
    pub(crate) fn reset(&self) {
        self.io.reset();
    }
}

/// A stream that can be given up.
pub(crate) trait Reset {
    /// Once it is dropped, nothing is kept for a peer that reads no more (RST).
    fn reset(&self);
}

impl Reset for StallGuard<TcpStream> {
    fn reset(&self) {
        // It fails only on a socket that is closed already.
        let _ = self.get_ref().set_zero_linger();
    }
}

/// What tungstenite takes for a stream.
struct Buffers {
    /// Bytes of the peer that are not understood yet.
    come: Bytes,
    /// There will be no others.
    ended: bool,
    /// Where among its frames the peer is, before `come`.
    boundary: Boundary,
    /// What is to be written.
    out: Vec<u8>,
}

impl Read for Buffers {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.come.is_empty() {
            self.come = Bytes::new(); // An empty slice still holds the allocation.
            return if self.ended {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        let most = bytes.len().min(self.come.len());
        let taken = self.boundary.advance(&self.come[..most]);
        if taken == 0 {
            return Err(io::Error::other(TooManyFragments));
        }
        self.come.copy_to_slice(&mut bytes[..taken]);
        Ok(taken)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn context(max_message: usize) -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    Box::new(WebSocketContext::new(Role::Server, Some(config)))
}

/// Appends a frame. It is not masked: a server's never is (§5.1).
fn frame(payload: &[u8], opcode: OpCode, out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let length = payload.len() as u64;
    out.reserve(header.len(length) + payload.len());
    header.format(length, out).expect("a Vec takes any bytes");
    out.extend_from_slice(payload);
}

/// Appends a text message as it is on the wire.
pub(crate) fn text_frame(text: &[u8], out: &mut Vec<u8>) {
    frame(text, OpCode::Data(Data::Text), out);
}

fn poll_some<S: AsyncWrite + Unpin>(
    io: &mut S,
    task: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(io).poll_write(task, bytes)) {
        Ok(0) => Poll::Ready(Err(ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}
