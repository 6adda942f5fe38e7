//! The wait for news: [`Feed::next`](super::Feed::next).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    After, Feed, FeedError, Page, PageLimit, Reading, Topic, Topics,
    store::{PartialPage, StoreFuture},
    wake::Waiter,
};

/// A future by name. An async block would store its arguments twice (rust-lang/rust#62958), and ten
/// thousand readers wait here.
pub(super) struct Next<'a> {
    pub(super) feed: &'a Feed,
    pub(super) topics: &'a Topics,
    pub(super) after: After,
    pub(super) limit: PageLimit,
    pub(super) waiter: Waiter<'a, Topic>,
    /// Set while the store completes a page.
    pub(super) completing: Option<StoreFuture<'a, Option<Page>>>,
}

impl Future for Next<'_> {
    type Output = Result<Page, FeedError>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let next = self.get_mut();
        loop {
            if let Some(completing) = &mut next.completing {
                let page = ready!(completing.as_mut().poll(task))?;
                next.completing = None;
                if let Some(page) = page {
                    return Poll::Ready(Ok(page.log_gap()));
                }
            }
            let partial = ready!(next.wait(task))?;
            match next.feed.complete(partial) {
                Reading::Done(page) => return Poll::Ready(Ok(page)),
                Reading::Completing(page) => next.completing = Some(page),
            }
        }
    }
}

impl Next<'_> {
    fn wait(&mut self, task: &mut Context<'_>) -> Poll<Result<PartialPage, FeedError>> {
        let news = self.look();
        if news.is_ready() {
            return news;
        }
        self.waiter.register(task.waker());
        // A message that came between the look and the registration woke nobody: look again.
        self.look()
    }

    /// A closed feed still gives what there is to read.
    fn look(&self) -> Poll<Result<PartialPage, FeedError>> {
        match self.feed.news(self.topics, &self.after, self.limit) {
            Some(news) => Poll::Ready(Ok(news)),
            None if self.feed.is_closed() => Poll::Ready(Err(FeedError::Closed)),
            None => Poll::Pending,
        }
    }
}
