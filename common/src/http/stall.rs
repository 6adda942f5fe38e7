//! Disconnects a peer that does not read. hyper limits how long a request's head may take, but not how
//! long a write may take. Without a limit a peer that never reads keeps its connection forever.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::{info, trace};

use super::fair::FairSleep;

/// Passes reads and writes through. A write fails with [`io::ErrorKind::TimedOut`] when the socket has
/// accepted no data for `stall`.
#[derive(Debug)]
pub struct StallGuard<S> {
    io: S,
    stall: Duration,
    /// The timer of a write that waits. Created only then, because most writes never wait.
    waiting: Option<FairSleep>,
    /// Set from a write on, until a flush succeeds.
    unflushed: Option<Arc<AtomicBool>>,
}

impl<S> StallGuard<S> {
    /// Guards the writes to `io`.
    pub fn new(io: S, stall: Duration) -> Self {
        Self {
            io,
            stall,
            waiting: None,
            unflushed: None,
        }
    }

    /// Sets `unflushed` from each write on, until a flush succeeds. A takeover needs it while hyper owns the guard.
    /// `None` ends that.
    pub fn watch(&mut self, unflushed: Option<Arc<AtomicBool>>) {
        self.unflushed = unflushed;
    }

    /// The guarded stream.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The stream without its guard.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// Like [`guard`](Self::guard), for a write that tells how many bytes were written.
    fn written(
        &mut self,
        progress: Poll<io::Result<usize>>,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.set_unflushed(true);
        if let Poll::Ready(Ok(bytes)) = progress {
            trace!(count.sent_bytes = bytes);
        }
        self.guard(progress, task)
    }

    fn set_unflushed(&self, is_unflushed: bool) {
        if let Some(unflushed) = &self.unflushed {
            unflushed.store(is_unflushed, Relaxed);
        }
    }

    /// Stops the timer if the write made progress, and fails the write when the time is up.
    fn guard<T>(
        &mut self,
        progress: Poll<io::Result<T>>,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.waiting = None;
            return progress;
        }
        let stall = self.stall;
        let timer = self.waiting.get_or_insert_with(|| FairSleep::new(stall));
        ready!(Pin::new(timer).poll(task));
        let message = format!("the peer accepted no data for {} s", stall.as_secs_f64());
        info!("cut: {message}");
        trace!(count.stalled = 1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.io).poll_write(task, bytes);
        self.written(progress, task)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.io).poll_write_vectored(task, slices);
        self.written(progress, task)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.io).poll_flush(task);
        if let Poll::Ready(Ok(())) = progress {
            self.set_unflushed(false);
        }
        self.guard(progress, task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.io).poll_shutdown(task);
        self.guard(progress, task)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex},
        time::{Instant, advance},
    };

    use super::{super::fair::LATE, *};

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_disconnected_after_the_stall() {
        let (server, _client) = duplex(4);
        let mut guarded = StallGuard::new(server, Duration::from_secs(30));
        let started = Instant::now();
        let error = guarded.write_all(b"more than four").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 30);
    }

    /// As after a stop of the process: the clock jumps, and nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_noticed_late_is_believed_a_moment_later() {
        let (server, _client) = duplex(4);
        let mut guarded = StallGuard::new(server, Duration::from_secs(30));
        let write = tokio::spawn(async move { guarded.write_all(b"more than four").await });
        tokio::task::yield_now().await;
        advance(Duration::from_secs(3_600)).await;
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
        assert!(!write.is_finished());
        let stopped = Instant::now();
        let error = write.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(stopped.elapsed(), LATE);
    }

    #[tokio::test]
    async fn what_is_written_is_unflushed_until_a_flush_succeeds() {
        let (server, client) = duplex(8);
        let unflushed = Arc::new(AtomicBool::new(false));
        let mut guarded = StallGuard::new(BufWriter::new(server), Duration::MAX);
        guarded.watch(Some(unflushed.clone()));
        assert!(!unflushed.load(Relaxed));
        guarded.write_all(b"four").await.unwrap();
        assert!(unflushed.load(Relaxed));
        guarded.flush().await.unwrap();
        assert!(!unflushed.load(Relaxed));
        guarded.write_all(b"more").await.unwrap();
        drop(client);
        assert!(guarded.flush().await.is_err());
        assert!(unflushed.load(Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn any_progress_starts_the_time_again() {
        let (server, mut client) = duplex(4);
        let mut guarded = StallGuard::new(server, Duration::from_secs(30));
        let write = tokio::spawn(async move { guarded.write_all(b"0123456789").await });
        for _ in 0..6 {
            tokio::task::yield_now().await;
            advance(Duration::from_secs(29)).await;
            client.read_u8().await.unwrap();
        }
        assert!(write.await.unwrap().is_ok());
    }
}
