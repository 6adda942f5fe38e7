//! Reads a webhook's body. Anybody may send one: the signature covers every byte, so the sender is unknown
//! until the last byte is here.
//!
//! A body of up to 64 KiB is free. A larger one takes blocks of a budget that all bodies share, one block
//! at a time as its bytes arrive, and loses them when its bytes stop. So an attacker must send as many bytes
//! as it wants to block.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use common::{Activity, Problem, PublishLimits, fair_timeout, retry_after, too_large, too_slow};
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body, Incoming},
    header::EXPECT,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

/// A body of up to this size is free. A larger one is counted in blocks of this size.
const BLOCK: usize = 64 << 10;

/// What bodies may cost.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// How many bytes all bodies together may hold, beyond the first 64 KiB of each. Default 64 MiB.
    pub budget: usize,
    /// While a body holds a part of the budget, 64 KiB must come in this time. Default 2 s.
    pub pace: Duration,
    /// How long a body may wait for room in the budget. Default 5 s.
    pub patience: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            budget: 64 << 20,
            pace: Duration::from_secs(2),
            patience: Duration::from_secs(5),
        }
    }
}

/// The bodies that are being read.
pub(super) struct Bodies {
    limits: BodyLimits,
    /// The largest size of one body, and its whole time.
    per_body: PublishLimits,
    /// Blocks.
    budget: Semaphore,
    /// One body may exceed the budget. Without it, bodies that each hold a part could all wait for each other.
    overdraft: Semaphore,
}

/// A whole body. Its share of the budget is free again when this is dropped.
pub(super) struct WholeBody<'b> {
    pub(super) bytes: Bytes,
    _share: Share<'b>,
}

/// What one body has taken from the budget, or beyond it.
#[derive(Default)]
struct Share<'b> {
    permits: Vec<SemaphorePermit<'b>>,
    overdrawn: bool,
}

impl Bodies {
    pub(super) fn new(limits: BodyLimits, per_body: PublishLimits) -> Self {
        Self {
            budget: Semaphore::new(limits.budget / BLOCK),
            overdraft: Semaphore::new(1),
            limits,
            per_body,
        }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// 400 if it breaks off, 408 if it is slow, 413 if it is too large, 503 if there is no room for it.
    pub(super) async fn read(&self, request: Request<Incoming>) -> Result<WholeBody<'_>, Problem> {
        let expects_continue = request.headers().contains_key(EXPECT);
        // The connection counts as idle until the body is here: at the limit it may be closed for another one.
        let _idle = request.extensions().get().map(Activity::idle);
        let mut body = pin!(request.into_body());
        if body.size_hint().lower() > self.per_body.max_message as u64 {
            return Err(too_large(body, expects_continue, self.per_body).await);
        }
        match fair_timeout(self.per_body.body_timeout, self.read_all(body.as_mut())).await {
            Ok(Ok(Some(whole))) => Ok(whole),
            Ok(Ok(None)) => Err(too_large(body, false, self.per_body).await),
            Ok(Err(problem)) => Err(problem),
            Err(_) => {
                let seconds = self.per_body.body_timeout.as_secs_f64();
                Err(too_slow(format!("the body took longer than {seconds} s")))
            }
        }
    }

    /// `None` once it is too large.
    async fn read_all(
        &self,
        mut body: Pin<&mut Incoming>,
    ) -> Result<Option<WholeBody<'_>>, Problem> {
        let (mut read, mut share) = (BytesMut::new(), Share::default());
        // How much may be read before the next block is taken, and until when it must be here.
        let (mut allowed, mut deadline) = (BLOCK, None);
        while let Some(received) = self.in_time(deadline, body.frame()).await? {
            let frame = received
                .map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
            read.extend_from_slice(&frame.into_data().unwrap_or_default());
            if read.len() > self.per_body.max_message {
                return Ok(None);
            }
            if read.len() > allowed {
                let blocks = (read.len() - allowed).div_ceil(BLOCK);
                self.take(&mut share, blocks as u32).await?;
                allowed += blocks * BLOCK;
                deadline = Some(Instant::now() + self.limits.pace);
            }
        }
        Ok(Some(WholeBody {
            bytes: read.freeze(),
            _share: share,
        }))
    }

    /// The next frame, unless it comes after the deadline.
    async fn in_time<F: Future>(
        &self,
        deadline: Option<Instant>,
        frame: F,
    ) -> Result<F::Output, Problem> {
        match deadline {
            None => Ok(frame.await),
            Some(deadline) => fair_timeout(deadline - Instant::now(), frame)
                .await
                .map_err(|_| {
                    let seconds = self.limits.pace.as_secs_f64();
                    too_slow(format!(
                        "less than {BLOCK} bytes of the body came in {seconds} s"
                    ))
                }),
        }
    }

    /// Takes blocks from the budget, or else the overdraft.
    async fn take<'b>(&'b self, share: &mut Share<'b>, blocks: u32) -> Result<(), Problem> {
        if share.overdrawn {
            return Ok(());
        }
        let taken = async {
            tokio::select! {
                biased;
                blocks = self.budget.acquire_many(blocks) => (blocks, false),
                overdraft = self.overdraft.acquire() => (overdraft, true),
            }
        };
        let (permit, overdrawn) = timeout(self.limits.patience, taken)
            .await
            .map_err(|_| Problem::unavailable("too many large bodies", retry_after()))?;
        share.permits.extend(permit); // never an error: the semaphores are not closed
        share.overdrawn = overdrawn;
        Ok(())
    }
}
