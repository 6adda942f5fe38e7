//! One poll: answered at once, after a wait, or told to come again.

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

/// What is newer than `after`, as soon as there is something or the wait is over.
pub(crate) async fn poll<B>(
    app: &App,
    topics: &str,
    request: &Request<B>,
) -> Result<Response<AnswerBody>, Problem> {
    let topics: Topics = topics.parse().map_err(Problem::bad_request)?;
    let query = Query::of(request.uri());
    let after = query.get("after")?.unwrap_or(After::Earliest);
    let limit: PageLimit = query.get("limit")?.unwrap_or_default();
    let Wait(time) = query.get("wait")?.unwrap_or(Wait(app.config.wait));
    let now = app.feed.read(&topics, &after, limit).await?;
    if now.is_news() || time.is_zero() || request.method() == Method::HEAD {
        return Ok(answer(app, &now));
    }
    let Ok(_place) = app.subscribers.try_acquire() else {
        debug!("at the subscriber limit");
        return Err(Problem::unavailable(
            format!("{} polls are waiting already", app.config.max_subscribers),
            retry_after(),
        ));
    };
    let time = wait::shortened(time, rand::random());
    // Up to `next` there was nothing. From there on, `latest` is an ordinary position.
    let page = wait::wait(&app.feed, &topics, now.next, limit, time).await?;
    Ok(answer(app, &page))
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
