//! Answers one poll: what is newer than the client's cursor, at once.

use common::{After, Feed, Newest, Page, PageLimit, Pieces, Problem, Query, Topics, retry_after};
use hyper::{
    Request, Response, StatusCode,
    header::{self, HeaderValue},
};
use tokio::time::Instant;

use crate::{
    conditional,
    hint::{Hint, POLL_INTERVAL},
};

/// Answers the polls of one server.
#[derive(Debug)]
pub struct Polls {
    /// What is polled.
    pub feed: Feed,
    /// Computes when the client should poll again.
    pub hint: Hint,
    /// When the server started. A topic without messages has been quiet at least since then.
    pub started: Instant,
}

impl Polls {
    /// Answers one poll of `topics`, at once: 200 with the page, or 304 if the client has it.
    ///
    /// # Errors
    /// 400 for invalid topics, `after=`, `limit=` or `newest=`; 412 for an `If-Match` with ETags; 503 if
    /// the feed cannot be read.
    pub async fn answer<B>(
        &self,
        topics: &str,
        request: &Request<B>,
    ) -> Result<Response<Pieces>, Problem> {
        let topics: Topics = topics.parse().map_err(Problem::bad_request)?;
        let query = Query::of(request.uri());
        let after = query.get("after")?.unwrap_or(After::Earliest);
        let requested: PageLimit = query.get("limit")?.unwrap_or_default();
        let limit = PageLimit {
            newest: query.get::<Newest>("newest")?.is_some(),
            ..requested.of_poll(&after)
        };
        let read = self.feed.read(&topics, &after, limit).await;
        let page = read.map_err(|error| Problem::unavailable(error, retry_after()))?;
        if conditional::is_precondition_failed(request.headers()) {
            let detail = "If-Match does not match, because every ETag here is weak";
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
        }
        let etag = conditional::etag(&page);
        let next_poll = self.next_poll(&page);
        let mut response = Response::new(Pieces::default());
        if conditional::is_not_modified(request.headers(), &etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            put_page(page, &mut response);
        }
        put_fields(etag, next_poll, &mut response);
        Ok(response)
    }

    /// In how many seconds the client should poll again.
    fn next_poll(&self, page: &Page) -> u64 {
        let silence = match page.published {
            Some(published) => published.elapsed(),
            None => self.hint.ordinary_silence() + self.started.elapsed(),
        };
        self.hint.seconds(silence, rand::random())
    }
}

fn put_page(page: Page, response: &mut Response<Pieces>) {
    *response.body_mut() = page.into_json();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
}

/// A 200 and its 304 have the same fields (RFC 9110 §15.4.5).
fn put_fields(etag: String, next_poll: u64, response: &mut Response<Pieces>) {
    let etag = HeaderValue::try_from(etag).expect("a cursor and a digest are visible ASCII");
    // Not `extend`: it reserves room for these fields only, so `finish` would have to reallocate. That costs
    // 4 % of a poll.
    let fields = response.headers_mut();
    // A cache may store the answer, but must ask before it uses it.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(header::ETAG, etag);
    fields.insert(POLL_INTERVAL, next_poll.into());
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use common::{Cursor, Data, Draft, Gap, Message, Retention};
    use hyper::header::{HeaderMap, IF_NONE_MATCH};
    use proptest::prelude::*;

    use super::*;

    const TOPICS: [&str; 4] = ["a", "b", "a,b", "a,b,c"];

    /// Trims within a topic, and through the traffic of others.
    fn tiny() -> Feed {
        Feed::new(Retention {
            messages: 3,
            total_bytes: 1_500,
            ..Retention::default()
        })
    }

    /// One answer: its page and its ETag.
    async fn asked(feed: &Feed, topics: &str, after: &After, limit: PageLimit) -> (Page, String) {
        let topics = topics.parse().unwrap();
        let page = feed.read(&topics, after, limit).await.unwrap();
        let etag = conditional::etag(&page);
        (page, etag)
    }

    fn limit() -> impl Strategy<Value = PageLimit> {
        (1..6usize, any::<bool>()).prop_map(|(messages, newest)| PageLimit {
            messages,
            newest,
            ..PageLimit::default()
        })
    }

    async fn publish(feed: &Feed, topic: usize) {
        let topic = ["a", "b", "c"][topic].parse().unwrap();
        let draft = Draft::new(Data::text("x"));
        feed.publish(topic, draft).await.unwrap();
    }

    fn block_on(future: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future);
    }

    /// What an answer tells, without `next`.
    type Told = (Vec<Arc<Message>>, Option<Gap>);

    fn is_304(page: &Page, known: &str) -> bool {
        let known = HeaderValue::from_str(known).unwrap();
        let request = HeaderMap::from_iter([(IF_NONE_MATCH, known)]);
        conditional::is_not_modified(&request, &conditional::etag(page))
    }

    /// Every position that a client may ask for.
    fn positions(feed: &Feed) -> impl Iterator<Item = After> {
        let head = feed.head();
        let cursors = (0..=head.seq).map(move |seq| Cursor { seq, ..head }.into());
        cursors.chain([After::Earliest, After::Last])
    }

    proptest! {
        #[test]
        fn the_etag_of_a_request_changes_exactly_when_its_messages_or_its_gap_do(
            published in prop::collection::vec(0..3usize, 1..16),
            limit in limit(),
        ) {
            block_on(async {
                let feed = tiny();
                let mut answers = HashMap::<_, Vec<(Told, String)>>::new();
                for topic in published {
                    publish(&feed, topic).await;
                    for (after, topics) in positions(&feed).flat_map(|after| TOPICS.map(|topics| (after.clone(), topics))) {
                        let (page, etag) = asked(&feed, topics, &after, limit).await;
                        // These may be empty twice, before all of their messages and after.
                        if matches!(after, After::Earliest | After::Last) && !page.is_news() {
                            continue;
                        }
                        let told = (page.messages, page.gap);
                        let before = answers.entry((after.to_string(), topics)).or_default();
                        for (other, other_etag) in before.iter() {
                            assert_eq!(*other == told, *other_etag == etag, "{other_etag} {etag}");
                        }
                        before.push((told, etag));
                    }
                }
            });
        }

        #[test]
        fn a_304_hides_nothing_that_was_not_told_with_its_etag_whatever_the_topics_and_the_position(
            published in prop::collection::vec(0..3usize, 1..16),
            limit in limit(),
        ) {
            block_on(async {
                let feed = tiny();
                let mut known = HashMap::<String, Told>::new();
                for topic in published {
                    publish(&feed, topic).await;
                    for (after, topics) in positions(&feed).chain([After::Latest]).flat_map(|after| TOPICS.map(|topics| (after.clone(), topics))) {
                        let (page, etag) = asked(&feed, topics, &after, limit).await;
                        for (_, told) in known.iter().filter(|(etag, _)| is_304(&page, etag)) {
                            let same = (&page.messages, &page.gap) == (&told.0, &told.1);
                            assert!(same || !page.is_news(), "{topics} after {after}: {page:?}");
                        }
                        known.insert(etag, (page.messages, page.gap));
                    }
                }
            });
        }

        #[test]
        fn a_client_that_sends_its_last_etag_with_its_new_cursor_is_told_the_news_and_only_the_news(
            steps in prop::collection::vec((0..3usize, any::<bool>()), 1..40),
            limit in limit(),
        ) {
            block_on(async {
                let feed = tiny();
                let (mut after, mut known) = (After::Earliest, "\"none\"".to_owned());
                for (topic, polls) in steps {
                    publish(&feed, topic).await;
                    if !polls {
                        continue;
                    }
                    let (page, etag) = asked(&feed, "a,b", &after, limit).await;
                    let first = known == "\"none\"";
                    let no = is_304(&page, &known);
                    assert_eq!(no, !page.is_news() && !first, "{known} {etag}");
                    if !no {
                        after = page.next.into();
                    }
                    known = etag;
                }
            });
        }
    }
}
