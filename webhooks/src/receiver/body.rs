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
use common::{Activity, Problem, PublishLimits, retry_after, too_large, too_slow};
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body, Incoming},
    header::EXPECT,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
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
    /// The size of one body, and its whole time.
    each: PublishLimits,
    /// Blocks.
    budget: Semaphore,
    /// One body may exceed the budget. Without it, bodies that each hold a part could all wait for each other.
    overdraft: Semaphore,
}

/// A whole body. Its room in the budget is free again when this is dropped.
pub(super) struct Whole<'b> {
    pub(super) bytes: Bytes,
    _room: Room<'b>,
}

#[derive(Default)]
struct Room<'b> {
    blocks: Option<SemaphorePermit<'b>>,
    overdraft: Option<SemaphorePermit<'b>>,
}

impl Bodies {
    pub(super) fn new(limits: BodyLimits, each: PublishLimits) -> Self {
        let budget = Semaphore::new(limits.budget / BLOCK);
        Self {
            limits,
            each,
            budget,
            overdraft: Semaphore::new(1),
        }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// 400 if it breaks off, 408 if it is slow, 413 if it is too large, 503 if there is no room for it.
    pub(super) async fn read(&self, request: Request<Incoming>) -> Result<Whole<'_>, Problem> {
        let expects_continue = request.headers().contains_key(EXPECT);
        // The connection counts as idle until the body is here: at the limit it may be closed for another one.
        let _idle = request.extensions().get().map(Activity::idle);
        let mut body = pin!(request.into_body());
        if body.size_hint().lower() > self.each.max_message as u64 {
            return Err(too_large(body, expects_continue, self.each).await);
        }
        match timeout(self.each.body_timeout, self.read_all(body.as_mut())).await {
            Ok(Ok(Some(whole))) => Ok(whole),
            Ok(Ok(None)) => Err(too_large(body, false, self.each).await),
            Ok(Err(problem)) => Err(problem),
            Err(_) => {
                let seconds = self.each.body_timeout.as_secs_f64();
                Err(too_slow(format!("the body took longer than {seconds} s")))
            }
        }
    }

    /// `None` once it is too large.
    async fn read_all(&self, mut body: Pin<&mut Incoming>) -> Result<Option<Whole<'_>>, Problem> {
        let (mut read, mut room) = (BytesMut::new(), Room::default());
        let (mut held, mut due) = (BLOCK, None);
        while let Some(frame) = self.in_time(due, body.frame()).await? {
            let frame = frame
                .map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
            read.extend_from_slice(&frame.into_data().unwrap_or_default());
            if read.len() > self.each.max_message {
                return Ok(None);
            }
            if read.len() > held {
                let blocks = (read.len() - held).div_ceil(BLOCK);
                self.hold(&mut room, blocks as u32).await?;
                held += blocks * BLOCK;
                due = Some(Instant::now() + self.limits.pace);
            }
        }
        Ok(Some(Whole {
            bytes: read.freeze(),
            _room: room,
        }))
    }

    /// The next frame, by the time when the next block is due.
    async fn in_time<F: Future>(
        &self,
        due: Option<Instant>,
        frame: F,
    ) -> Result<F::Output, Problem> {
        match due {
            None => Ok(frame.await),
            Some(due) => timeout_at(due, frame).await.map_err(|_| {
                let seconds = self.limits.pace.as_secs_f64();
                too_slow(format!(
                    "less than {BLOCK} bytes of the body came in {seconds} s"
                ))
            }),
        }
    }

    /// Takes blocks from the budget, or else the overdraft.
    async fn hold<'b>(&'b self, room: &mut Room<'b>, blocks: u32) -> Result<(), Problem> {
        if room.overdraft.is_some() {
            return Ok(());
        }
        let taken = async {
            tokio::select! {
                biased;
                taken = self.budget.acquire_many(blocks) => match (&mut room.blocks, taken) {
                    (Some(held), Ok(more)) => held.merge(more),
                    (held, taken) => *held = taken.ok(),
                },
                overdraft = self.overdraft.acquire() => room.overdraft = overdraft.ok(),
            }
        };
        let in_time = timeout(self.limits.patience, taken).await;
        in_time.map_err(|_| Problem::unavailable("too many large bodies", retry_after()))
    }
}
