//! How many attempts there are at one time, over all endpoints.
//!
//! Each endpoint has one reserved slot, and borrows more from a shared stock. So a healthy endpoint is always
//! called, even if many others are slow or dead: when the stock is used up, it gets one message at a time.
//! First attempts queue for the stock. A retry takes a slot from it only if no first attempt waits for one.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The slots that all endpoints share. Clones share them.
#[derive(Clone)]
pub(crate) struct Stock {
    slots: Arc<Semaphore>,
    /// Notified after a slot has become free.
    freed: Arc<Notify>,
}

impl Stock {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            freed: Arc::default(),
        }
    }

    /// A slot, if one is free and no first attempt waits for it.
    pub(crate) fn try_take(&self) -> Option<Place> {
        let slot = self.slots.clone().try_acquire_owned();
        slot.ok().map(|slot| self.place(slot))
    }

    fn place(&self, slot: OwnedSemaphorePermit) -> Place {
        Place {
            slot: Some(slot),
            freed: self.freed.clone(),
        }
    }
}

/// An endpoint's slots.
#[derive(Clone)]
pub(crate) struct Places {
    stock: Stock,
    own: Arc<Semaphore>,
}

/// A slot in use. Dropping it frees the slot, and then notifies a retry that waits for one.
pub(crate) struct Place {
    slot: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slot = None;
        self.freed.notify_one();
    }
}

impl Places {
    /// The slots of a new endpoint.
    pub(crate) fn of(stock: &Stock) -> Self {
        Self {
            stock: stock.clone(),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits for a slot for a first attempt.
    pub(crate) async fn first(self) -> Place {
        let slot = tokio::select! {
            biased;
            slot = self.stock.slots.clone().acquire_owned() => slot,
            slot = self.own.acquire_owned() => slot,
        };
        self.stock.place(slot.expect(OPEN))
    }

    /// Waits for a slot for a retry. It does not queue for the stock, so that first attempts go before it.
    pub(crate) async fn retry(self) -> Place {
        loop {
            if let Some(place) = self.stock.try_take() {
                return place;
            }
            tokio::select! {
                slot = self.own.clone().acquire_owned() => return self.stock.place(slot.expect(OPEN)),
                () = self.stock.freed.notified() => {}
            }
        }
    }
}

const OPEN: &str = "the slots are never closed";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn when_the_stock_is_used_up_each_endpoint_has_its_own_place() {
        let stock = Stock::new(2);
        let (greedy, modest) = (Places::of(&stock), Places::of(&stock));
        let held = [greedy.clone().first().await, greedy.clone().first().await];
        let _own = greedy.clone().retry().await;
        let mut more = at_once(greedy.clone().first());
        assert!(more.is_none(), "there is none for it");
        assert!(at_once(modest.clone().first()).is_some());
        drop(held);
        more = at_once(greedy.first());
        assert!(more.is_some());
    }

    /// The result of a future that must be ready at once.
    fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        use std::task::{Context, Poll, Waker};
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(given) => Some(given),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_retry_takes_of_the_stock_only_what_no_first_attempt_waits_for() {
        let stock = Stock::new(1);
        let places = Places::of(&stock);
        let held = [places.clone().first().await, places.clone().first().await];
        let first = tokio::spawn(places.clone().first());
        let retry = tokio::spawn(places.clone().retry());
        tokio::task::yield_now().await;
        let [stocked, own] = held;
        drop(stocked);
        let _first = first.await.unwrap();
        assert!(!retry.is_finished());
        drop(own);
        retry.await.unwrap();
    }

    #[tokio::test]
    async fn a_retry_that_waits_takes_a_slot_of_the_stock_when_one_becomes_free() {
        let stock = Stock::new(1);
        let (busy, places) = (Places::of(&stock), Places::of(&stock));
        let stocked = busy.first().await;
        let _own = places.clone().first().await;
        let retry = tokio::spawn(places.retry());
        tokio::task::yield_now().await;
        assert!(!retry.is_finished());
        drop(stocked);
        tokio::time::timeout(std::time::Duration::from_secs(60), retry)
            .await
            .expect("it notices the free slot")
            .unwrap();
    }
}
