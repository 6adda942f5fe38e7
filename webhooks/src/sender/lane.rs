//! One connection to an endpoint, kept between messages. A new connection costs a lookup and the handshakes
//! of TCP and TLS.
//!
//! A kept connection leads to the address that was checked when it was dialed. It is not used again after it
//! was idle for too long, or at its maximum age. So a change of the name's address is noticed, and the new
//! address is checked.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, join, split},
    task::JoinSet,
    time::Instant,
};

/// How long an idle connection is kept. Most servers keep theirs longer.
const IDLE: Duration = Duration::from_secs(15);
/// The maximum age at which a connection is used again.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// The most fields of a head. If there are more, only the status counts.
const MAX_FIELDS: usize = 128;
/// The most bytes of a whole answer. It includes interim answers (1xx), which hyper does not limit.
const MAX_ANSWER: usize = 64 * 1024;

/// One connection, for one message after the other. Never use it for two endpoints.
#[derive(Debug)]
pub struct Lane {
    /// The dialed address.
    pub remote: SocketAddr,
    opened: Instant,
    idle_since: Instant,
    sender: http1::SendRequest<Full<Bytes>>,
    received: Arc<Mutex<Received>>,
    /// The task that drives the connection. It ends when this is dropped.
    _driver: JoinSet<hyper::Result<()>>,
}

impl Lane {
    /// Speaks HTTP/1 over a connected stream.
    ///
    /// # Errors
    /// hyper's.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        remote: SocketAddr,
    ) -> hyper::Result<Self> {
        let received = Arc::default();
        let (reader, writer) = split(stream);
        let watched = Watched {
            reader,
            received: Arc::clone(&received),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_FIELDS)
            // A sloppy field must not hide the others, such as `Retry-After`.
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(TokioIo::new(join(watched, writer)))
            .await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self {
            remote,
            opened: Instant::now(),
            idle_since: Instant::now(),
            sender,
            received,
            _driver: driver,
        })
    }

    /// Whether it can be used again. It cannot if it was idle for too long, or is too old or closed.
    pub fn is_usable(&self) -> bool {
        self.idle_since.elapsed() < IDLE
            && self.opened.elapsed() < MAX_AGE
            && !self.sender.is_closed()
    }

    /// The connection once an answer was read to its end: it is idle from now on.
    pub fn idle(mut self) -> Self {
        self.idle_since = Instant::now();
        lock(&self.received).clear();
        self
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is not HTTP.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        lock(&self.received).clear();
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Whether any byte of an answer to the last request came.
    pub fn has_received(&self) -> bool {
        !lock(&self.received).answer.is_empty()
    }

    /// The status of an answer whose head is complete, even if hyper refuses the head for one of its fields.
    pub fn status(&self) -> Option<StatusCode> {
        lock(&self.received).status()
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().expect("nothing panics under this lock")
}

/// What was received in answer to one request.
#[derive(Debug, Default)]
struct Received {
    /// This connection has had an answer before.
    is_later: bool,
    /// How many bytes came, at most [`MAX_ANSWER`].
    bytes: usize,
    /// Those of this answer.
    answer: Vec<u8>,
}

impl Received {
    const VERSION: &[u8] = b"HTTP/1.";

    /// Forgets the last answer: once it was read to its end, and what has come since, before the next request.
    fn clear(&mut self) {
        self.is_later |= !self.answer.is_empty();
        self.bytes = 0;
        self.answer = Vec::new(); // frees up to `MAX_ANSWER`: an endpoint may have several idle connections
    }

    /// Takes note of bytes that came. Returns how many of them are not of this answer.
    ///
    /// # Errors
    /// If the answer is too long.
    fn note(&mut self, read: &[u8]) -> io::Result<usize> {
        self.bytes += read.len();
        if self.bytes > MAX_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
        let late = self.late(read);
        self.answer.extend_from_slice(&read[late..]);
        Ok(late)
    }

    /// How many bytes come before the answer. They are the end of an earlier answer that was longer than it said,
    /// such as a 204 with a body.
    fn late(&self, read: &[u8]) -> usize {
        if !self.is_later || !self.answer.is_empty() {
            return 0;
        }
        let begins = |at: &usize| {
            let rest = &read[*at..];
            rest.starts_with(Self::VERSION) || Self::VERSION.starts_with(rest)
        };
        (0..read.len()).find(begins).unwrap_or(read.len())
    }

    /// The status of the first head that is whole and not of an interim answer (1xx).
    fn status(&self) -> Option<StatusCode> {
        let mut rest = &self.answer[..];
        loop {
            let status = status_of(rest)?;
            rest = after_head(rest)?;
            if !status.is_informational() {
                return Some(status);
            }
        }
    }
}

/// The status of a head that begins here (RFC 9112 §4).
fn status_of(head: &[u8]) -> Option<StatusCode> {
    let [_, b' ', rest @ ..] = head.strip_prefix(Received::VERSION)? else {
        return None;
    };
    let (code, after) = rest.split_at_checked(3)?;
    let ends = matches!(after.first(), Some(b' ' | b'\r' | b'\n'));
    StatusCode::from_bytes(code).ok().filter(|_| ends)
}

/// What follows the blank line of the head.
fn after_head(head: &[u8]) -> Option<&[u8]> {
    let ends = |at: &usize| head[..*at].ends_with(b"\n\n") || head[..*at].ends_with(b"\n\r\n");
    let end = (1..=head.len()).find(ends)?;
    Some(&head[end..])
}

/// A reader that watches what is read from it, and drops what is not of the answer.
struct Watched<R> {
    reader: R,
    received: Arc<Mutex<Received>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(Pin::new(&mut self.reader).poll_read(context, buffer))?;
            let read = &mut buffer.filled_mut()[before..];
            let late = lock(&self.received).note(read)?;
            read.copy_within(late.., 0);
            let kept = read.len() - late;
            buffer.set_filled(before + kept);
            // Without any byte it would be the end of the stream.
            if kept > 0 || late == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn status(parts: &[&str]) -> Option<u16> {
        let mut received = Received::default();
        for part in parts {
            received.note(part.as_bytes()).unwrap();
        }
        received.status().map(|status| status.as_u16())
    }

    #[test]
    fn a_whole_head_has_a_status_whatever_its_fields_are() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nA : b\r\n c\r\n\x01\r\n\r\n", Some(200)),
            ("HTTP/1.0 204\n\n", Some(204)),
            ("HTTP/1.1 200\r\n\r\n", Some(200)),
            (
                "HTTP/1.1 429 T\r\nContent-Length: -1\r\n\r\nbody",
                Some(429),
            ),
            ("HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n", None),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", None),
            ("HTTP/1.1 2000 OK\r\n\r\n", None),
            ("HTTP/1.1 20", None),
            ("HTTP/2.0 200 OK\r\n\r\n", None),
            ("ICY 200 OK\r\n\r\n", None),
            ("200\r\n\r\n", None),
        ] {
            assert_eq!(status(&[answer]), expected, "{answer:?}");
            let bytes: Vec<&str> = answer.split_inclusive(|_| true).collect();
            assert_eq!(status(&bytes), expected, "{answer:?}, a byte at a time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_used_again_for_a_minute() {
        let (stream, _peer) = tokio::io::duplex(1_024);
        let lane = Lane::over(stream, ([127, 0, 0, 1], 1).into());
        let mut lane = lane.await.unwrap();
        let mut left = MAX_AGE;
        while left > IDLE {
            advance(IDLE - Duration::from_millis(1)).await;
            left -= IDLE - Duration::from_millis(1);
            assert!(lane.is_usable(), "it is in use and not a minute old");
            lane = lane.idle();
        }
        advance(left).await;
        assert!(!lane.is_usable());
    }

    #[tokio::test]
    async fn an_idle_connection_keeps_nothing_of_an_answer() {
        let (stream, _peer) = tokio::io::duplex(1_024);
        let lane = Lane::over(stream, ([127, 0, 0, 1], 1).into());
        let lane = lane.await.unwrap();
        lock(&lane.received).note(&[b'a'; MAX_ANSWER]).unwrap();
        let lane = lane.idle();
        assert_eq!(lock(&lane.received).answer.capacity(), 0);
    }
}
