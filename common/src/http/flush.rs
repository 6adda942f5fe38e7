//! Whether what was written has left. Who takes a connection back from hyper asks first: hyper may
//! still hold a part of an earlier answer.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes everything through, and notes every write and every flush.
#[derive(Debug)]
pub struct FlushWatch<S> {
    io: S,
    notes: FlushNotes,
}

/// What a [`FlushWatch`] has seen, for who has not the connection itself. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FlushNotes {
    unflushed: Arc<AtomicBool>,
}

impl FlushNotes {
    /// Whether nothing was written since the last flush that succeeded.
    pub fn is_flushed(&self) -> bool {
        !self.unflushed.load(Ordering::Relaxed)
    }

    /// Something will be written: until it is flushed it counts as if it were.
    pub fn expect_write(&self) {
        self.unflushed.store(true, Ordering::Relaxed);
    }
}

impl<S> FlushWatch<S> {
    /// Watches `io`.
    pub fn new(io: S, notes: FlushNotes) -> Self {
        Self { io, notes }
    }

    /// What was watched.
    pub fn into_inner(self) -> S {
        self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FlushWatch<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FlushWatch<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.notes.expect_write();
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.notes.expect_write();
        Pin::new(&mut self.io).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(task);
        if let Poll::Ready(Ok(())) = flushed {
            self.notes.unflushed.store(false, Ordering::Relaxed);
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
        let notes = FlushNotes::default();
        let mut watched = FlushWatch::new(BufWriter::new(server), notes.clone());
        assert!(notes.is_flushed());
        watched.write_all(b"four").await.unwrap();
        assert!(!notes.is_flushed());
        watched.flush().await.unwrap();
        assert!(notes.is_flushed());
        watched.write_all(b"more").await.unwrap();
        drop(client);
        assert!(watched.flush().await.is_err());
        assert!(!notes.is_flushed());
    }
}
