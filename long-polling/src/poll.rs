//! One poll: answered at once, after a wait, or told to come again.

use std::time::Duration;

use common::{After, Page, PageLimit, Problem, Query, Topics, retry_after};
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    header::{self, HeaderValue},
};
use tracing::debug;

use crate::{
    App,
    route::AnswerBody,
    wait::{self, Wait},
};

/// What a client asks for.
pub(crate) struct Poll {
    topics: Topics,
    after: After,
    limit: PageLimit,
    /// How long the answer may take.
    time: Duration,
}

impl Poll {
    pub(crate) fn of<B>(app: &App, topics: &str, request: &Request<B>) -> Result<Self, Problem> {
        let topics = topics.parse().map_err(Problem::bad_request)?;
        let query = Query::of(request.uri());
        let Wait(time) = query.get("wait")?.unwrap_or(Wait(app.config.wait));
        let at_once = request.method() == Method::HEAD;
        Ok(Self {
            topics,
            after: query.get("after")?.unwrap_or(After::Earliest),
            limit: query.get("limit")?.unwrap_or_default(),
            time: if at_once { Duration::ZERO } else { time },
        })
    }

    /// What is newer than `after`, as soon as there is something or the wait is over.
    pub(crate) async fn answer(&mut self, app: &App) -> Result<Response<AnswerBody>, Problem> {
        // Up to here there was nothing. From here on, `latest` is an ordinary position.
        self.after = {
            let now = app.feed.read(&self.topics, &self.after, self.limit).await?;
            if now.is_news() || self.time.is_zero() {
                return Ok(answer(app, &now));
            }
            now.next.into()
        };
        let Ok(_place) = app.subscribers.try_acquire() else {
            debug!("at the subscriber limit");
            return Err(Problem::unavailable(
                format!("{} polls are waiting already", app.config.max_subscribers),
                retry_after(),
            ));
        };
        let time = wait::shortened(self.time, rand::random());
        let page = wait::wait(&app.feed, &self.topics, &self.after, self.limit, time).await?;
        Ok(answer(app, &page))
    }
}

fn answer(app: &App, page: &Page) -> Response<AnswerBody> {
    let mut response = Response::new(Full::from(page.to_json()));
    response.headers_mut().extend([
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        // Another moment, another answer.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]);
    if app.feed.is_closed() {
        // The next poll belongs to another server.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
