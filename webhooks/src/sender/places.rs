//! How many attempts there are at one time, over all endpoints.
//!
//! Each endpoint has one reserved slot, and borrows more from a shared stock. So a healthy endpoint is always
//! called, even if many others are slow or dead: when the stock is used up, it gets one message at a time.
//! First attempts queue for the stock. A retry takes a slot from it only if no first attempt waits for one.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An endpoint's slots.
#[derive(Clone)]
pub(crate) struct Places {
    stock: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A slot in use. Dropping it frees the slot.
pub(crate) struct Place(
    #[expect(dead_code, reason = "it is there to be dropped")] OwnedSemaphorePermit,
);

impl Places {
    /// The slots of a new endpoint.
    pub(crate) fn of(stock: &Arc<Semaphore>) -> Self {
        Self {
            stock: stock.clone(),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits for a slot for a first attempt.
    pub(crate) async fn first(self) -> Place {
        tokio::select! {
            biased;
            place = self.stock.acquire_owned() => taken(place),
            place = self.own.acquire_owned() => taken(place),
        }
    }

    /// Waits for a slot for a retry. It does not queue for the stock, so that first attempts go before it.
    pub(crate) async fn retry(self) -> Place {
        match self.stock.try_acquire_owned() {
            Ok(place) => Place(place),
            Err(_) => taken(self.own.acquire_owned().await),
        }
    }
}

fn taken(place: Result<OwnedSemaphorePermit, tokio::sync::AcquireError>) -> Place {
    Place(place.expect("places are not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn when_the_stock_is_used_up_each_endpoint_has_its_own_place() {
        let stock = Arc::new(Semaphore::new(2));
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
        let stock = Arc::new(Semaphore::new(1));
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
}
