//! Counts what clients put on the wire and take off it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts over all connections of a client, or of several.
///
/// Atomics, because each connection of hyper is driven by its own task. A count needs no order
/// with others.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    requests: AtomicU64,
    empty: AtomicU64,
    connections: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Bytes that the programs write and read, in both directions. TCP's own are not in it.
    pub bytes: u64,
    /// HTTP requests, of either side.
    pub requests: u64,
    /// Answers with nothing new in them.
    pub empty: u64,
    /// Connections opened.
    pub connections: u64,
}

impl Traffic {
    /// The counts up to now.
    pub fn counts(&self) -> Counts {
        Counts {
            bytes: self.bytes.load(Relaxed),
            requests: self.requests.load(Relaxed),
            empty: self.empty.load(Relaxed),
            connections: self.connections.load(Relaxed),
        }
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn empty(&self) {
        self.empty.fetch_add(1, Relaxed);
    }

    fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Relaxed);
    }
}

impl Counts {
    /// What both counted together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::wrapping_sub)
    }

    fn zip(self, other: Self, count: fn(u64, u64) -> u64) -> Self {
        Self {
            bytes: count(self.bytes, other.bytes),
            requests: count(self.requests, other.requests),
            empty: count(self.empty, other.empty),
            connections: count(self.connections, other.connections),
        }
    }
}

/// A socket that counts what was read from it and written to it.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    pub(crate) io: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    /// A new connection.
    pub(crate) fn new(io: S, traffic: Arc<Traffic>) -> Self {
        traffic.connections.fetch_add(1, Relaxed);
        Self { io, traffic }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(task, buffer))?;
        self.traffic.bytes(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(task, bytes))?;
        self.traffic.bytes(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}
