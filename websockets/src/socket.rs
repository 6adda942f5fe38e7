//! A server's websocket: tungstenite on any `AsyncRead + AsyncWrite`.
//!
//! tungstenite's `WebSocketContext` does no I/O: each call takes a stream. Here this stream is two buffers,
//! the received bytes and the bytes to write. So one read may bring many messages, and one write carries
//! the answers to all of them.
//!
//! Between two messages tungstenite has nothing to remember. The socket then drops tungstenite's
//! context with its buffers, so an idle websocket costs little more than its TCP connection.
//! [`boundary`](crate::boundary) finds these moments.
//!
//! Every future here is cancel-safe: it may be dropped at any await, and no byte is lost.

use std::{
    future::poll_fn,
    io::{self, ErrorKind, Read, Write},
    mem::{self, MaybeUninit},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
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

/// The most bytes that one read takes, less what waits to be written: a peer that sends and does not read
/// holds this much of both. With 16 KiB, sixteen echoes of 1 KiB took two reads and a fifth more
/// processor time (`cargo bench -p websockets`).
const READ: usize = 64 * 1024;
/// How many bytes tungstenite takes from us at a time. It zeroes as many before each read, so more would
/// cost time.
const READ_BUFFER: usize = 4 * 1024;
/// By how much the bytes to write grow at a time. A `Vec` would double, and hold twice of what is queued.
const GROWTH: usize = 16 * 1024;

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes of a message, and of a frame: tungstenite reserves what a frame's header announces.
    pub message: usize,
    /// The most frames of a message.
    pub fragments: u32,
}

/// A peer that broke [`Limits::fragments`].
#[derive(Debug, thiserror::Error)]
#[error("a message of too many fragments")]
pub struct TooManyFragments;

/// A websocket, the server's side.
#[derive(Debug)]
pub struct Socket<S> {
    io: S,
    max_message: usize,
    state: State,
    buffers: Buffers,
    /// When the last byte came, or [`Socket::mark_heard`] was called.
    heard: Instant,
}

/// Whether tungstenite has something to read or to remember.
#[derive(Debug, Default)]
enum State {
    /// Between two messages, with nothing left to read.
    #[default]
    Idle,
    /// There may be a message in the received bytes.
    Unread(Box<WebSocketContext>),
    /// Everything was read. The context remembers half a message, or that a close frame was sent.
    Waiting(Box<WebSocketContext>),
}

/// The stream that tungstenite reads from and writes to.
#[derive(Debug)]
struct Buffers {
    /// Bytes of the peer that tungstenite has not taken yet.
    received: Bytes,
    /// The peer has sent FIN.
    ended: bool,
    /// Where in the peer's frames `received` begins.
    boundary: Boundary,
    /// Bytes to write.
    out: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket on an upgraded connection. `early` holds the bytes that came after the handshake.
    pub fn new(io: S, early: &[u8], limits: Limits) -> Self {
        let state = if early.is_empty() {
            State::Idle
        } else {
            State::Unread(context(limits.message))
        };
        Self {
            io,
            max_message: limits.message,
            state,
            buffers: Buffers {
                received: Bytes::copy_from_slice(early),
                ended: false,
                boundary: Boundary::new(limits.fragments),
                out: Vec::new(),
            },
            heard: Instant::now(),
        }
    }

    /// The connection below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// How many bytes wait to be written.
    pub fn unsent(&self) -> usize {
        self.buffers.out.len()
    }

    /// Whether there may be a message in the received bytes.
    pub fn is_unread(&self) -> bool {
        matches!(self.state, State::Unread(_))
    }

    /// When the peer was last heard.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Restarts the peer's silence, as if a byte had come now.
    pub fn mark_heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Queues a text message. [`ready`](Self::ready) and [`write_some`](Self::write_some) write what is
    /// queued.
    pub fn push_text(&mut self, text: &str) {
        push_text_frame(text.as_bytes(), &mut self.buffers.out);
    }

    /// Queues a binary message.
    pub fn push_binary(&mut self, bytes: &[u8]) {
        push_frame(bytes, OpCode::Data(Data::Binary), &mut self.buffers.out);
    }

    /// Queues a ping.
    pub fn push_ping(&mut self, payload: [u8; 4]) {
        let opcode = OpCode::Control(Control::Ping);
        push_frame(&payload, opcode, &mut self.buffers.out);
    }

    /// Queues whole frames. They are copied only if something is queued already.
    pub fn push_frames(&mut self, frames: Vec<u8>) {
        if self.buffers.out.is_empty() {
            self.buffers.out = frames;
        } else {
            make_room(frames.len(), &mut self.buffers.out);
            self.buffers.out.extend_from_slice(&frames);
        }
    }

    /// Resolves when there is something to read (only if `reading`), or when everything queued is written.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn ready(&mut self, reading: bool) -> io::Result<()> {
        poll_fn(|task| {
            if reading && (self.is_unread() || self.poll_fill(task)?.is_ready()) {
                return Poll::Ready(Ok(()));
            }
            if self.unsent() == 0 {
                return Poll::Pending;
            }
            self.poll_write(task)
        })
        .await
    }

    /// Writes as much as the connection takes now.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn write_some(&mut self) -> io::Result<()> {
        if self.unsent() == 0 {
            return Ok(());
        }
        poll_fn(|task| match self.poll_write(task) {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// The next message in the received bytes, if there is one.
    pub fn message(&mut self) -> Option<Result<Message, Error>> {
        let State::Unread(context) = &mut self.state else {
            return None;
        };
        match context.read(&mut self.buffers) {
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.rest();
                None
            }
            Ok(message) => {
                if matches!(message, Message::Ping(_) | Message::Close(_)) {
                    // Moves tungstenite's answer to our buffer. The answer to a close is the last
                    // frame, and tungstenite reports that as an error.
                    let _ = context.flush(&mut self.buffers);
                }
                Some(Ok(message))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Everything was read: keeps the context only if it has something to remember.
    fn rest(&mut self) {
        if let State::Unread(context) = mem::take(&mut self.state) {
            let is_closing = !context.can_write();
            if is_closing || !self.buffers.boundary.at_rest() {
                self.state = State::Waiting(context);
            }
        }
    }

    /// Writes everything queued, and then a close frame.
    ///
    /// # Errors
    /// tungstenite's, or the connection's.
    pub async fn close(&mut self, frame: CloseFrame) -> Result<(), Error> {
        let mut context = self.take_context();
        let queued = context.close(&mut self.buffers, Some(frame));
        self.state = State::Unread(context);
        queued?;
        self.finish().await
    }

    /// Reads until both close frames are exchanged or the peer is gone, then writes what is left.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn finish_close(&mut self) -> Result<(), Error> {
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

    /// Sends FIN: nothing more will be written.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|task| Pin::new(&mut self.io).poll_shutdown(task)).await
    }

    /// Reads until the peer's FIN and drops what comes.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn discard(&mut self) -> io::Result<()> {
        while !self.buffers.ended {
            poll_fn(|task| self.poll_fill(task)).await?;
        }
        Ok(())
    }

    fn take_context(&mut self) -> Box<WebSocketContext> {
        match mem::take(&mut self.state) {
            State::Idle => context(self.max_message),
            State::Unread(context) | State::Waiting(context) => context,
        }
    }

    /// Fills `received` by one read.
    fn poll_fill(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        // On the stack and uninitialized: no memory is held between two reads, and none is cleared.
        let mut bytes = [const { MaybeUninit::uninit() }; READ];
        let room = READ.saturating_sub(self.unsent()).max(READ_BUFFER);
        let mut buffer = ReadBuf::uninit(&mut bytes[..room]);
        ready!(Pin::new(&mut self.io).poll_read(task, &mut buffer))?;
        self.heard = Instant::now();
        self.buffers.ended = buffer.filled().is_empty();
        self.buffers.received = Bytes::copy_from_slice(buffer.filled());
        self.state = State::Unread(self.take_context());
        Poll::Ready(Ok(()))
    }

    /// Writes everything queued.
    fn poll_write(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = &mut self.buffers.out;
        while !out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(task, out))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            out.drain(..written);
        }
        *out = Vec::new();
        Pin::new(&mut self.io).poll_flush(task)
    }
}

impl Read for Buffers {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            self.received = Bytes::new(); // An empty slice still holds its allocation.
            return if self.ended {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        let most = bytes.len().min(self.received.len());
        let taken = self.boundary.advance(&self.received[..most]);
        if taken == 0 {
            return Err(io::Error::other(TooManyFragments));
        }
        self.received.copy_to_slice(&mut bytes[..taken]);
        Ok(taken)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        make_room(bytes.len(), &mut self.out);
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

/// Appends a text message to `out`, as one frame.
pub fn push_text_frame(text: &[u8], out: &mut Vec<u8>) {
    push_frame(text, OpCode::Data(Data::Text), out);
}

/// Appends a frame. A server's frame is never masked (RFC 6455 §5.1).
fn push_frame(payload: &[u8], opcode: OpCode, out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let length = payload.len() as u64;
    make_room(header.len(length) + payload.len(), out);
    header.format(length, out).expect("a Vec takes any bytes");
    out.extend_from_slice(payload);
}

/// Makes room in `out` for this many bytes more.
fn make_room(bytes: usize, out: &mut Vec<u8>) {
    if out.capacity() - out.len() < bytes {
        out.reserve_exact(bytes.max(out.len().min(GROWTH)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_to_write_hold_little_more_than_they_are() {
        let mut out = Vec::new();
        while out.len() < READ {
            push_text_frame(b"an answer", &mut out);
            assert!(out.capacity() <= (out.len() * 2).min(out.len() + GROWTH));
        }
    }
}
