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
    time::timeout,
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

/// What one body has taken from the budget, or beyond it. It is free again when this is dropped.
pub(super) type Share<'b> = Vec<SemaphorePermit<'b>>;

impl Bodies {
    pub(super) fn new(limits: BodyLimits, per_body: PublishLimits) -> Self {
        Self {
            budget: Semaphore::new(limits.budget / BLOCK),
            overdraft: Semaphore::new(1),
            limits,
            per_body,
        }
    }

    /// Reads a whole body. Drop its share when the body is not needed any more.
    ///
    /// # Errors
    /// 400 if it breaks off, 408 if it is slow, 413 if it is too large, 503 if there is no room for it.
    pub(super) async fn read(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Bytes, Share<'_>), Problem> {
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
    ) -> Result<Option<(Bytes, Share<'_>)>, Problem> {
        let max = self.per_body.max_message;
        let (mut read, mut share, mut overdrawn) = (BytesMut::new(), Share::new(), false);
        // How much may be read before the next block is taken.
        let mut allowed = BLOCK;
        let mut ended = read_beyond(allowed.min(max), body.as_mut(), &mut read).await?;
        while !ended {
            if read.len() > max {
                return Ok(None);
            }
            let blocks = (read.len() - allowed).div_ceil(BLOCK);
            if !overdrawn {
                let (permit, is_overdraft) = self.take(blocks as u32).await?;
                share.push(permit);
                overdrawn = is_overdraft;
            }
            allowed += blocks * BLOCK;
            let more = read_beyond(allowed.min(max), body.as_mut(), &mut read);
            ended = fair_timeout(self.limits.pace, more).await.map_err(|_| {
                let seconds = self.limits.pace.as_secs_f64();
                too_slow(format!(
                    "less than {BLOCK} bytes of the body came in {seconds} s"
                ))
            })??;
        }
        Ok(Some((read.freeze(), share)))
    }

    /// Takes blocks from the budget, or else the overdraft, and returns whether it is that.
    async fn take(&self, blocks: u32) -> Result<(SemaphorePermit<'_>, bool), Problem> {
        let taken = async {
            tokio::select! {
                biased;
                blocks = self.budget.acquire_many(blocks) => (blocks, false),
                overdraft = self.overdraft.acquire() => (overdraft, true),
            }
        };
        let (permit, is_overdraft) = timeout(self.limits.patience, taken)
            .await
            .map_err(|_| Problem::unavailable("too many large bodies", retry_after()))?;
        let permit = permit.expect("the semaphores are not closed");
        Ok((permit, is_overdraft))
    }
}

/// Reads on until there are more than `size` bytes. Returns whether the body ended before.
async fn read_beyond(
    size: usize,
    mut body: Pin<&mut Incoming>,
    read: &mut BytesMut,
) -> Result<bool, Problem> {
    while read.len() <= size {
        let Some(received) = body.frame().await else {
            return Ok(true);
        };
        let frame = received
            .map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
        read.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    Ok(false)
}
