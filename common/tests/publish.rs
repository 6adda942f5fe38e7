//! `POST /topics/{topic}` as a function: bodies that come in pieces, late, or never end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::{After, Feed, PageLimit, Problem, PublishLimits, Retention, publish};
use futures_util::StreamExt;
use harness::PATIENCE;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    Request, Response,
    body::{Body, Frame},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

const LIMITS: PublishLimits = PublishLimits {
    max_message: 8,
    body_timeout: Duration::from_secs(10),
};

/// A body that the test writes as it goes.
struct Live(mpsc::UnboundedReceiver<Bytes>);

impl Body for Live {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(task)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn live() -> (mpsc::UnboundedSender<Bytes>, Request<Live>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Request::new(Live(receiver)))
}

/// Publishes a body that may never end. Without an answer the test fails and does not hang.
async fn status(feed: &Feed, request: Request<Live>) -> u16 {
    let answer = timeout(PATIENCE, publish(feed, LIMITS, "t", request)).await;
    outcome(answer.expect("it is answered"))
}

fn outcome(answer: Result<Response<Full<Bytes>>, Problem>) -> u16 {
    answer.map_or_else(
        |problem| problem.status.as_u16(),
        |response| response.status().as_u16(),
    )
}

#[tokio::test]
async fn a_body_of_the_limit_is_published_and_one_byte_more_is_not() {
    let feed = Feed::new(Retention::default());
    for (body, expected) in [("12345678", 201), ("123456789", 413)] {
        let (sender, request) = live();
        for byte in body.bytes() {
            sender.send(Bytes::from(vec![byte])).unwrap();
        }
        drop(sender);
        assert_eq!(status(&feed, request).await, expected);
    }
    assert_eq!(feed.counts().messages, 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_its_time_from_first_to_last_byte() {
    let feed = Feed::new(Retention::default());
    for (pause, expected) in [
        (Duration::from_millis(9_990), 201),
        (Duration::from_millis(10_010), 408),
    ] {
        let (sender, request) = live();
        let started = Instant::now();
        let writing = tokio::spawn(async move {
            sender.send("a".into()).unwrap();
            tokio::time::sleep(pause).await;
            let _ = sender.send("b".into());
        });
        assert_eq!(status(&feed, request).await, expected);
        assert_eq!(started.elapsed().as_secs(), pause.as_secs());
        writing.abort();
    }
}

/// As after a stop of the process: the runtime learns of the time first, and of the body a little later.
#[tokio::test(start_paused = true)]
async fn a_body_that_came_while_the_process_was_stopped_is_published() {
    let feed = Feed::new(Retention::default());
    for (pause, expected) in [(90, 201), (110, 408)] {
        let (sender, request) = live();
        let answer = async { status(&feed, request).await };
        let stopped = async {
            tokio::task::yield_now().await;
            tokio::time::advance(LIMITS.body_timeout + Duration::from_secs(1)).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let _ = sender.send("a".into());
            drop(sender);
        };
        assert_eq!(tokio::join!(answer, stopped).0, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_is_discarded_for_two_seconds() {
    let (sender, request) = live();
    sender.send("123456789".into()).unwrap();
    let started = Instant::now();
    assert_eq!(status(&Feed::new(Retention::default()), request).await, 413);
    assert_eq!(started.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn what_is_too_long_is_discarded_up_to_a_mebibyte() {
    const FRAME: usize = 64 << 10;
    let taken = Arc::new(AtomicUsize::new(0));
    let frames = futures_util::stream::repeat_with({
        let taken = taken.clone();
        move || {
            taken.fetch_add(FRAME, Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; FRAME])))
        }
    });
    // More than is accepted. It ends, so that a publish without the limit does not hang here.
    let request = Request::new(StreamBody::new(frames.take(100)));
    let feed = Feed::new(Retention::default());
    assert_eq!(outcome(publish(&feed, LIMITS, "t", request).await), 413);
    // One frame is over the limit of a message, and another one over the mebibyte.
    assert_eq!(taken.load(Ordering::Relaxed), FRAME + (1 << 20) + FRAME);
}

#[tokio::test]
async fn what_was_published_is_answered_and_read_back() {
    let feed = Feed::new(Retention::default());
    let post = async |body: &'static str| {
        let request = Request::builder()
            .uri("/?type=greeting")
            .header("idempotency-key", "k")
            .header("content-type", "Application/JSON; charset=utf-8");
        publish(&feed, LIMITS, "t", request.body(Full::from(body)).unwrap()).await
    };
    let first = post("[1,\n2]").await.unwrap();
    let id = feed.head();
    assert_eq!(first.headers()["content-type"], "application/json");
    assert_eq!(
        text(first).await,
        format!(r#"{{"id":"{id}","duplicate":false}}"#)
    );
    assert_eq!(
        text(post("[1,\r\n2]").await.unwrap()).await,
        format!(r#"{{"id":"{id}","duplicate":true}}"#)
    );
    assert_eq!(outcome(post("[1]").await), 422);
    let page = feed
        .read(
            &"t".parse().unwrap(),
            &After::Earliest,
            PageLimit::default(),
        )
        .await
        .unwrap();
    let json = str::from_utf8(&page.messages[0].json).unwrap();
    assert!(json.starts_with(&format!(
        r#"{{"id":"{id}","topic":"t","type":"greeting","timestamp":""#
    )));
    assert!(json.ends_with(r#"Z","data":[1,2]}"#));
}

#[tokio::test]
async fn quotes_around_an_idempotency_key_are_not_part_of_it() {
    let feed = Feed::new(Retention::default());
    let longest = "k".repeat(255);
    for (key, is_repeat) in [
        ("k", false),
        (r#""k""#, true),
        (r#"""#, false),
        (r#""k"#, false),
        (&format!(r#""{longest}""#), false),
        (&longest, true),
    ] {
        let request = Request::builder().header("idempotency-key", key);
        let request = request.body(Full::from("hello")).unwrap();
        let answer = text(publish(&feed, LIMITS, "t", request).await.unwrap()).await;
        let expected = format!(r#","duplicate":{is_repeat}}}"#);
        assert!(answer.ends_with(&expected), "{key}: {answer}");
    }
    let request = Request::builder().header("idempotency-key", r#""""#);
    let request = request.body(Full::from("hello")).unwrap();
    assert_eq!(outcome(publish(&feed, LIMITS, "t", request).await), 400);
}

async fn text(response: Response<Full<Bytes>>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}
