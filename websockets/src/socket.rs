//! tungstenite on any `AsyncRead + AsyncWrite`.
//!
//! Its `WebSocketContext` does no I/O of its own: it takes the stream at every call. So a stream
//! that exists for the time of one poll, and says `WouldBlock` where the real one says `Pending`,
//! is all that it needs. Nothing is held between two polls: every future here can be dropped at any
//! await and made again.

use std::{
    future::poll_fn,
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tungstenite::{
    Error, Message,
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

/// What one read takes; allocated with the socket. tungstenite's own 128 KiB would be most of a
/// session's memory.
const READ_BUFFER: usize = 4 * 1024;
/// What is gathered before tungstenite itself would write. Here it writes at a flush only.
const WRITE_BUFFER: usize = 16 * 1024;
/// A last guard. A session stays far below: it writes a page or a few answers, and only then more.
const MAX_WRITE_BUFFER: usize = 16 * 1024 * 1024;

/// The longest header of a frame that a server sends.
const MAX_HEADER: usize = 10;

/// A websocket, the server's side.
pub(crate) struct Socket<S> {
    io: S,
    context: WebSocketContext,
    /// Bytes that were pushed since all was written the last time.
    unsent: usize,
    /// When the last byte came.
    heard: Instant,
}

/// What the socket did.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message came.
    Received(Message),
    /// All that was pushed is written.
    Written,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket on an upgraded connection. `early` is what came with the handshake, `max_message`
    /// holds for a frame as for a whole message: tungstenite reserves what a frame's header
    /// announces.
    pub(crate) fn new(io: S, early: Bytes, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(MAX_WRITE_BUFFER.max(max_message.saturating_mul(8)))
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self {
            io,
            context: WebSocketContext::from_partially_read(
                early.into(),
                Role::Server,
                Some(config),
            ),
            unsent: 0,
            heard: Instant::now(),
        }
    }

    /// At most so many bytes wait to be written; 0 if all is written.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    /// When the peer's last byte came.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// Queues a text message; [`next`](Self::next) writes it.
    pub(crate) fn push_text(&mut self, text: impl Into<Bytes>) -> Result<(), Error> {
        let frame = Frame::message(text, OpCode::Data(Data::Text), true);
        self.push(Message::Frame(frame))
    }

    /// Queues a message; [`next`](Self::next) writes it.
    pub(crate) fn push(&mut self, message: Message) -> Result<(), Error> {
        self.unsent += message.len() + MAX_HEADER;
        match self.context.write(&mut Shut, message) {
            // It is in the buffer, and only the write that was tried at once is refused.
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            pushed => pushed,
        }
    }

    /// The next thing that happens: reads if `reading`, and writes what was pushed once there is
    /// nothing more to read, so that the answers to what came together leave together.
    pub(crate) async fn next(&mut self, reading: bool) -> Result<Event, Error> {
        poll_fn(|task| {
            if reading && let Poll::Ready(message) = self.poll_read(task) {
                return Poll::Ready(message.map(Event::Received));
            }
            if self.unsent == 0 {
                return Poll::Pending;
            }
            ready!(self.poll(task, |context, io| context.flush(io)))?;
            self.unsent = 0;
            Poll::Ready(Ok(Event::Written))
        })
        .await
    }

    fn poll_read(&mut self, task: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        let message = ready!(self.poll(task, |context, io| context.read(io)))?;
        if matches!(message, Message::Ping(_) | Message::Close(_)) {
            self.unsent += message.len() + MAX_HEADER; // tungstenite has queued the answer
        }
        Poll::Ready(Ok(message))
    }

    /// Writes all that was pushed, and then a close frame.
    pub(crate) async fn close(&mut self, frame: CloseFrame) -> Result<(), Error> {
        poll_fn(|task| self.poll(task, |context, io| context.close(io, Some(frame.clone())))).await
    }

    /// Says that nothing more will be written (FIN).
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|task| Pin::new(&mut self.io).poll_shutdown(task)).await
    }

    /// Reads to the end, and understands nothing of it.
    pub(crate) async fn discard(&mut self) -> io::Result<()> {
        poll_fn(|task| {
            loop {
                // On the stack of the poll: the task keeps no buffer for it.
                let mut scratch = [0; 1024];
                let mut buffer = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut self.io).poll_read(task, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
    }

    /// One call of tungstenite's.
    fn poll<T>(
        &mut self,
        task: &mut Context<'_>,
        call: impl FnOnce(&mut WebSocketContext, &mut Polled<'_, '_, S>) -> Result<T, Error>,
    ) -> Poll<Result<T, Error>> {
        let mut io = Polled {
            io: &mut self.io,
            task,
            heard: &mut self.heard,
        };
        match call(&mut self.context, &mut io) {
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done),
        }
    }
}

/// The stream for the time of one poll. Where it would block, the task is woken when it would not.
struct Polled<'a, 'b, S> {
    io: &'a mut S,
    task: &'a mut Context<'b>,
    heard: &'a mut Instant,
}

impl<S: AsyncRead + Unpin> Read for Polled<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        blocking(Pin::new(&mut *self.io).poll_read(self.task, &mut buffer))?;
        *self.heard = Instant::now();
        Ok(buffer.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Polled<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.io).poll_write(self.task, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(Pin::new(&mut *self.io).poll_flush(self.task))
    }
}

fn blocking<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

/// A stream that takes nothing now, for calls that only queue.
struct Shut;

impl Read for Shut {
    fn read(&mut self, _bytes: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for Shut {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
    }
}
