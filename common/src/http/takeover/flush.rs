//! Knows whether everything written is flushed. hyper does not tell.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes reads and writes through, and records writes and flushes in `unflushed`.
#[derive(Debug)]
pub(super) struct FlushWatch<'a, S> {
    io: S,
    unflushed: &'a Unflushed,
}

/// Set from a write on, until a flush succeeds.
#[derive(Debug, Default)]
pub(super) struct Unflushed(AtomicBool);

impl Unflushed {
    /// Notes a write, or announces one that will come.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<'a, S> FlushWatch<'a, S> {
    pub(super) fn new(io: S, unflushed: &'a Unflushed) -> Self {
        Self { io, unflushed }
    }

    pub(super) fn into_inner(self) -> S {
        self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FlushWatch<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FlushWatch<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unflushed.set();
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unflushed.set();
        Pin::new(&mut self.io).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(task);
        if let Poll::Ready(Ok(())) = flushed {
            self.unflushed.0.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, BufWriter, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_unflushed_until_a_flush_succeeds() {
        let (server, client) = duplex(8);
        let unflushed = Unflushed::default();
        let mut watched = FlushWatch::new(BufWriter::new(server), &unflushed);
        assert!(!unflushed.is_set());
        watched.write_all(b"four").await.unwrap();
        assert!(unflushed.is_set());
        watched.flush().await.unwrap();
        assert!(!unflushed.is_set());
        watched.write_all(b"more").await.unwrap();
        drop(client);
        assert!(watched.flush().await.is_err());
        assert!(unflushed.is_set());
    }
}
