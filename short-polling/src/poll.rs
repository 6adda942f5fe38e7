//! One poll: the page, and the fields that go with it.

use std::str::FromStr;

use bytes::Bytes;
use common::{After, Cursor, Feed, FeedError, Page, PageLimit, Problem, Query, Topics};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    header::{self, HeaderValue},
};

use crate::{
    App,
    conditional::{self, Front},
    hint,
    route::AnswerBody,
};

/// What is newer than `after`, now: 200 with the page, or 304 if the client has it.
pub(crate) async fn poll<B>(
    app: &App,
    topics: &str,
    request: &Request<B>,
) -> Result<Response<AnswerBody>, Problem> {
    let topics: Topics = topics.parse().map_err(Problem::bad_request)?;
    let query = Query::of(request.uri());
    let after = query.get("after")?.unwrap_or(After::Earliest);
    let Limit(limit) = query.get("limit")?.unwrap_or_default();
    let page = app.feed.read(&topics, &after, limit).await?;
    let etag = etag(&app.feed, &topics, &after, &page).await?;
    let mut response = Response::new(Full::default());
    if conditional::is_not_modified(request.headers(), &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        put_page(&page, &mut response);
    }
    put_fields(app, etag, &mut response);
    Ok(response)
}

fn put_page(page: &Page, response: &mut Response<Full<Bytes>>) {
    *response.body_mut() = page.to_json().into();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
}

/// What a 200 and its 304 have in common (RFC 9110 §15.4.5).
fn put_fields(app: &App, etag: String, response: &mut Response<Full<Bytes>>) {
    let config = &app.config;
    let again = hint::poll_interval(config.poll_interval, config.read_timeout, rand::random());
    let etag = HeaderValue::try_from(etag).expect("cursors and words are visible ASCII");
    response.headers_mut().extend([
        // May be stored, is never used without asking.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, etag),
        (hint::POLL_INTERVAL, again.into()),
    ]);
}

/// `limit=`: how many messages a page has at most, 1 to 500, by default 100. Its bytes are limited
/// to 1 MiB, and it always has room for one message.
#[derive(Default)]
struct Limit(PageLimit);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let messages = text.parse().ok().filter(|limit| (1..=500).contains(limit));
        Ok(Self(PageLimit {
            messages: messages.ok_or("a limit is a whole number from 1 to 500")?,
            ..PageLimit::default()
        }))
    }
}

async fn etag(
    feed: &Feed,
    topics: &Topics,
    after: &After,
    page: &Page,
) -> Result<String, FeedError> {
    let last = match page.messages.last() {
        Some(last) => last.id,
        None => last_message(feed, topics, page.next).await?,
    };
    let front = match after {
        After::Earliest => front_of_all(feed, topics, last).await?,
        _ => Front::Whole,
    };
    Ok(conditional::etag(page, last, front))
}

/// `earliest` asks for all that is kept and is not told what is not. Asking for all that ever was
/// is.
async fn front_of_all(feed: &Feed, topics: &Topics, last: Cursor) -> Result<Front, FeedError> {
    let everything = feed.read(topics, &at(0, last), ONE).await?;
    Ok(match everything.gap {
        None => Front::Whole,
        Some(_) => Front::Lost,
    })
}

/// The last message that `topics` had up to `end`, kept or not. The feed does not tell it, only
/// whether there was one after some position: halving finds it, in twenty looks among a million.
async fn last_message(feed: &Feed, topics: &Topics, end: Cursor) -> Result<Cursor, FeedError> {
    let (mut least, mut most) = (0, end.seq);
    while least < most {
        let middle = least + (most - least) / 2;
        let page = feed.read(topics, &at(middle, end), ONE).await?;
        let lost = page.gap.map(|gap| gap.resumed.seq);
        let kept = page.messages.first().map(|message| message.id.seq);
        match lost.into_iter().chain(kept).min() {
            Some(seq) if seq <= end.seq => least = seq,
            _ => most = middle,
        }
    }
    Ok(Cursor { seq: least, ..end })
}

fn at(seq: u64, other: Cursor) -> After {
    Cursor { seq, ..other }.into()
}

/// The shortest read.
const ONE: PageLimit = PageLimit {
    messages: 1,
    bytes: 0,
};
