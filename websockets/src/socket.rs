//! A server's websocket on any `AsyncRead + AsyncWrite`.
//!
//! One read may bring many messages, and one write carries the answers to all of them. Between two messages
//! a socket holds no buffer, so an idle websocket costs little more than its TCP connection.
//!
//! Every future here is cancel-safe: it may be dropped at any await, and no byte is lost.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    pin::{Pin, pin},
    str,
    task::{Context, Poll, Waker, ready},
};

use bytes::BufMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink},
    time::Instant,
};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::frames::{
    CLOSE, Inbox, Limits, NOT_UTF8, OpCode, PING, PONG, READ, TEXT, Violation, make_room,
    push_frame,
};

/// The least room of one read. Unsent bytes reduce the room from [`READ`] down to this. So a peer that sends
/// but does not read holds about [`READ`] in both buffers together.
const LEAST_READ: usize = 4 * 1024;

/// A websocket, the server's side.
#[derive(Debug)]
pub struct Socket<S> {
    io: S,
    inbox: Inbox,
    /// There may be a message in `inbox`.
    unread: bool,
    /// Bytes to write.
    out: Vec<u8>,
    /// When the last byte came.
    heard: Instant,
    /// When the last byte was written.
    said: Instant,
}

/// What the peer sent. Pings were answered, and pongs need no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// The close frame. Its answer is queued.
    Close,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket on an upgraded connection. `early` holds the bytes that came after the handshake.
    pub fn new(io: S, early: &[u8], limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            io,
            inbox: Inbox::new(early, limits),
            unread: !early.is_empty(),
            out: Vec::new(),
            heard: now,
            said: now,
        }
    }

    /// The connection below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// How many bytes wait to be written.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Whether there may be a message in the received bytes.
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// When the last byte came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Since when at least one of the two directions has been silent.
    pub fn silent_since(&self) -> Instant {
        self.heard.min(self.said)
    }

    /// Restarts the silence of both sides, as if bytes had been read and written now.
    pub fn end_silence(&mut self) {
        (self.heard, self.said) = (Instant::now(), Instant::now());
    }

    /// Queues one frame. [`ready`](Self::ready) writes what is queued.
    pub fn push(&mut self, opcode: OpCode, payload: &[u8]) {
        push_frame(opcode, payload, &mut self.out);
    }

    /// Queues whole frames. They are copied only if something is queued already.
    pub fn push_frames(&mut self, frames: Vec<u8>) {
        if self.out.is_empty() {
            self.out = frames;
        } else {
            make_room(frames.len(), &mut self.out);
            self.out.extend_from_slice(&frames);
        }
    }

    /// Resolves when there is something to read (only if `reading`), or when everything queued is written.
    ///
    /// # Errors
    /// If the connection fails, or the peer has sent its last byte.
    pub async fn ready(&mut self, reading: bool) -> io::Result<()> {
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

    /// Like [`ready`](Self::ready), but does only what needs no waiting.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    pub fn try_ready(&mut self, reading: bool) -> io::Result<()> {
        let mut task = Context::from_waker(Waker::noop());
        match pin!(self.ready(reading)).poll(&mut task) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    /// The next message in the received bytes, if there is one, and the output buffer for its answer.
    ///
    /// # Errors
    /// The rule that the peer's bytes break. No message can be read after it.
    pub fn message(&mut self) -> Result<Option<(Message<'_>, &mut Vec<u8>)>, Violation> {
        let (opcode, place) = loop {
            match self.inbox.next_message()? {
                Some((PING, place)) => push_frame(PONG, self.inbox.payload(place), &mut self.out),
                Some((PONG, _)) => {}
                Some(other) => break other,
                None => {
                    self.inbox.tidy();
                    self.unread = false;
                    return Ok(None);
                }
            }
        };
        let payload = self.inbox.payload(place);
        let message = match opcode {
            TEXT => Message::Text(str::from_utf8(payload).map_err(|_| NOT_UTF8)?),
            CLOSE => {
                check_close(payload)?;
                push_frame(CLOSE, payload, &mut self.out);
                Message::Close
            }
            _ => Message::Binary(payload),
        };
        Ok(Some((message, &mut self.out)))
    }

    /// Drops what the peer sends until its close frame has come, but at most about `most` bytes.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    pub async fn skip_to_close(&mut self, most: usize) -> io::Result<()> {
        let mut dropped = 0;
        while !self.inbox.skip_to_close() && dropped < most {
            self.inbox.tidy();
            dropped += poll_fn(|task| self.poll_fill(task)).await?;
        }
        Ok(())
    }

    /// Sends FIN, and drops what comes until the peer's FIN.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.io.shutdown().await?;
        copy(&mut self.io, &mut sink()).await?;
        Ok(())
    }

    /// One read. Returns how many bytes it brought.
    fn poll_fill(&mut self, task: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = READ.saturating_sub(self.unsent()).max(LEAST_READ);
        let read = self.inbox.fill(|buffer| {
            let mut limited = buffer.limit(room);
            pin!(self.io.read_buf(&mut limited)).poll(task)
        });
        if read.is_pending() {
            self.inbox.shrink();
        }
        let count = ready!(read)?;
        if count == 0 {
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        self.heard = Instant::now();
        self.unread = true;
        Poll::Ready(Ok(count))
    }

    /// Writes everything queued.
    fn poll_write(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(task, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.out.drain(..written);
            self.said = Instant::now();
        }
        self.out = Vec::new();
        Pin::new(&mut self.io).poll_flush(task)
    }
}

/// A close frame holds nothing, or a code and a reason (RFC 6455 §7.4). 1004 to 1006 and 1015 are never
/// sent. Other codes below 3000 mean nothing before they are registered.
fn check_close(payload: &[u8]) -> Result<(), Violation> {
    let reason = match payload {
        [] => &[],
        [a, b, reason @ ..] => match u16::from_be_bytes([*a, *b]) {
            1000..=1003 | 1007..=1014 | 3000..=4999 => reason,
            _ => return Err(Violation(CloseCode::Protocol, "an invalid close code")),
        },
        _ => return Err(Violation(CloseCode::Protocol, "half a close code")),
    };
    str::from_utf8(reason).map(drop).map_err(|_| NOT_UTF8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registered_close_codes_are_taken_and_those_for_private_use() {
        for code in 0..=u16::MAX {
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            let taken = check_close(&code.to_be_bytes());
            assert_eq!(taken.is_ok(), may_be_sent, "{code}");
        }
        assert_eq!(check_close(b""), Ok(()));
        assert_eq!(check_close(b"\x03\xe8\xc3\xa9"), Ok(()));
        assert_eq!(check_close(b"\x03\xe8\xff"), Err(NOT_UTF8));
        assert!(check_close(b"\x03").is_err());
    }
}
