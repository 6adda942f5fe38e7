//! Access, worked: every way in, every way to be refused, and the end of a token.
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/access.rs"]
mod example;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use common::{Browsers, Drained, Feed, Retention};
use example::{
    access::{Access, Grant, guarded},
    in_axum::publish,
};
use harness::{EventReader, START, TestServer, start_clock, wall_clock};
use tokio::time::{Instant, sleep};

const RECHECK: Duration = Duration::from_secs(15);

fn access(key: u8) -> Access {
    let browsers = Browsers::new(Vec::new(), ([127, 0, 0, 1], 0).into(), "");
    Access::new(&[key; 32], browsers, RECHECK, wall_clock)
}

async fn start() -> (TestServer, Arc<Access>) {
    start_clock();
    let access = Arc::new(access(1));
    let feed = Feed::new(Retention::default());
    let router = example::router(feed.clone(), access.clone());
    (serve(router, feed).await, access)
}

async fn serve(router: Router, feed: Feed) -> TestServer {
    TestServer::start(async |listener, shutdown| {
        example::in_axum::serve(listener, router, feed, shutdown).await;
        let (finished, cut) = (0, 0); // axum does not tell.
        Ok(Drained { finished, cut })
    })
    .await
}

/// May read `news.a`, `news.b` and so on, and publish to `news.a`, for a minute.
fn grant() -> Grant {
    Grant {
        sub: "ann".into(),
        read: vec!["news.*".into()],
        publish: vec!["news.a".into()],
        iat: START,
        exp: START + 60,
    }
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

async fn post(server: &TestServer, path: &str, field: &(&str, String)) -> (u16, String) {
    let client = server.client();
    let reply = client
        .post(path, "x")
        .header(field.0, &field.1)
        .send()
        .await;
    (reply.status.as_u16(), reply.text().to_owned())
}

async fn ticket(server: &TestServer, token: &str) -> String {
    let (status, body) = post(server, "/tickets", &bearer(token)).await;
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["ticket"].as_str().unwrap().to_owned()
}

async fn listen(server: &TestServer, path: &str, field: &(&str, String)) -> EventReader {
    let fields = [(field.0, field.1.as_str())];
    EventReader::connect_with(server.addr(), path, &fields).await
}

#[tokio::test]
async fn a_token_comes_in_any_of_four_places() {
    let (server, access) = start().await;
    let token = access.token(&grant());
    let ticket = format!("/topics/news.a?ticket={}", ticket(&server, &token).await);
    for (path, field) in [
        ("/topics/news.a", bearer(&token)),
        (
            "/topics/news.a",
            ("cookie", format!("theme=dark; token={token}")),
        ),
        (
            "/topics/news.a",
            (
                "sec-websocket-protocol",
                format!("feed.v1.json, bearer.{token}"),
            ),
        ),
        (&ticket, ("accept", "text/event-stream".into())),
    ] {
        let stream = listen(&server, path, &field).await;
        assert_eq!(stream.status(), 200, "{path} {field:?}");
    }
    server.stop().await;
}

/// The token with another of its three parts.
fn with_part(token: &str, index: usize, part: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[index] = BASE64.encode(part);
    parts.join(".")
}

#[tokio::test]
async fn every_other_token_is_refused_by_name_and_is_not_repeated() {
    let (server, access) = start().await;
    let token = access.token(&grant());
    let used = ticket(&server, &token).await;
    drop(
        listen(
            &server,
            &format!("/topics/news.a?ticket={used}"),
            &("accept", "*/*".into()),
        )
        .await,
    );
    let more = Grant {
        read: vec!["*".into()],
        ..grant()
    };
    let more = serde_json::to_string(&more).unwrap();
    let not_genuine = "the token is not genuine";
    let own = format!("token={token}");
    for (path, fields, status, detail) in [
        ("news.a", vec![], 401, "there is no token"),
        ("news.a", vec![bearer("")], 401, "there is no token"),
        ("news.a", vec![bearer("a.b.c")], 401, not_genuine),
        (
            "news.a",
            vec![bearer(&token[..token.len() - 1])],
            401,
            not_genuine,
        ),
        (
            "news.a",
            vec![bearer(&example_token(2, &grant()))],
            401,
            not_genuine,
        ),
        (
            "news.a",
            vec![bearer(&with_part(&token, 1, &more))],
            401,
            not_genuine,
        ),
        (
            "news.a",
            vec![bearer(&with_part(&token, 0, r#"{"alg":"none"}"#))],
            401,
            not_genuine,
        ),
        (
            "news.a",
            vec![bearer(&with_part(&token, 2, ""))],
            401,
            not_genuine,
        ),
        (
            "news.a",
            vec![bearer(&example_token(
                1,
                &Grant {
                    exp: START,
                    ..grant()
                },
            ))],
            401,
            "the token has expired",
        ),
        (
            &format!("news.a?ticket={used}"),
            vec![],
            401,
            "the ticket was used, or is too old",
        ),
        (
            "news.a?ticket=0",
            vec![bearer(&token)],
            401,
            "the ticket was used, or is too old",
        ),
        (
            "news.a",
            vec![
                ("cookie", own.clone()),
                ("origin", "https://evil.example".into()),
            ],
            403,
            "Origin https://evil.example",
        ),
        (
            "news.a",
            vec![("cookie", own), ("origin", "null".into())],
            403,
            "Origin null",
        ),
        (
            "news",
            vec![bearer(&token)],
            403,
            "the token does not allow topic news",
        ),
        (
            "newsletter",
            vec![bearer(&token)],
            403,
            "the token does not allow topic newsletter",
        ),
        (
            "news.a,secret?after=earliest",
            vec![bearer(&token)],
            403,
            "the token does not allow topic secret",
        ),
        (
            "news.a%2Csecret",
            vec![bearer(&token)],
            403,
            "the token does not allow topic secret",
        ),
    ] {
        let client = server.client();
        let path = format!("/topics/{path}");
        let request = fields
            .iter()
            .fold(client.get(&path), |request, (name, value)| {
                request.header(name, value)
            });
        let reply = request.send().await;
        assert_eq!(reply.status, status, "{path} {fields:?}");
        let said = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(said.starts_with(detail), "{path} {fields:?}: {said}");
        assert_eq!(reply.header("www-authenticate").is_some(), status == 401);
        assert!(!reply.text().contains(&token[..20]) && !reply.text().contains(&used));
    }
    let forbidden = post(&server, "/topics/news.b", &bearer(&token)).await;
    assert_eq!(forbidden.0, 403, "it may read this, and not publish");
    assert_eq!(
        post(&server, "/topics/news.a", &bearer(&token)).await.0,
        201
    );
    server.stop().await;
}

fn example_token(key: u8, grant: &Grant) -> String {
    access(key).token(grant)
}

#[tokio::test]
async fn a_path_that_the_guard_does_not_know_is_refused() {
    start_clock();
    let (access, feed) = (Arc::new(access(1)), Feed::new(Retention::default()));
    let publishing = publish::router(feed.clone(), publish::LIMITS);
    let routes = example::in_axum::router(feed.clone()).merge(publishing);
    let inside = guarded(access.clone(), routes.clone());
    let outside = guarded(access.clone(), Router::new().nest("/wrong", routes));
    let server = serve(Router::new().nest("/sse", inside).merge(outside), feed).await;
    let token = bearer(&access.token(&grant()));
    for (path, status) in [
        ("/sse/topics/news.a", 201),
        ("/sse/topics/secret", 403),
        ("/sse/tickets", 200),
        ("/wrong/topics/news.a", 404),
        ("/wrong/topics/secret", 404),
        ("/wrong/tickets", 404),
        ("/tickets", 200),
    ] {
        let (answered, body) = post(&server, path, &token).await;
        assert_eq!(answered, status, "{path} {body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_login_sets_a_cookie_and_a_foreign_page_cannot_log_in() {
    let (server, _) = start().await;
    let page = server.get("/").await;
    assert!(page.text().contains("LISTEN.EventSource("));
    let login = r#"{"sub":"ann","topics":"news.*","seconds":60}"#;
    let client = server.client();
    let foreign = client.post("/login", login);
    let foreign = foreign.header("origin", "https://evil.example").send();
    let foreign = foreign.await;
    assert_eq!(
        (foreign.status.as_u16(), foreign.header("set-cookie")),
        (403, None)
    );
    assert_eq!(server.post("/login", "ann").await.status, 400);
    assert_eq!(server.post("/login", " ".repeat(1_025)).await.status, 400);

    let reply = server.post("/login", login).await;
    let (token, attributes) = reply
        .header("set-cookie")
        .unwrap()
        .split_once("; ")
        .unwrap();
    assert_eq!(attributes, "HttpOnly; Secure; SameSite=Strict; Path=/");
    assert_eq!(reply.json()["token"], token["token=".len()..]);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    for (topic, status) in [("news.a", 200), ("secret", 403)] {
        let path = format!("/topics/{topic}");
        let stream = listen(&server, &path, &("cookie", token.to_owned())).await;
        assert_eq!(stream.status(), status);
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_good_for_ten_seconds() {
    let (server, access) = start().await;
    let token = access.token(&grant());
    for (age, status) in [(9, 200), (11, 401)] {
        let ticket = ticket(&server, &token).await;
        sleep(Duration::from_secs(age)).await;
        let path = format!("/topics/news.a?ticket={ticket}");
        let stream = listen(&server, &path, &("accept", "*/*".into())).await;
        assert_eq!(stream.status(), status, "after {age} s");
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_token_or_at_the_next_heartbeat_after_it_was_revoked() {
    let (server, access) = start().await;
    let begun = Instant::now();
    let long = Grant {
        exp: START + 3_600,
        ..grant()
    };
    let brief = Grant {
        exp: START + 5,
        sub: "bob".into(),
        ..grant()
    };
    let [long, brief] = [long, brief].map(|grant| bearer(&access.token(&grant)));
    let mut lasting = listen(&server, "/topics/news.a", &long).await;
    let mut ending = listen(&server, "/topics/news.a", &brief).await;
    while ending.next().await.is_some() {}
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(
        listen(&server, "/topics/news.a", &brief).await.status(),
        401
    );

    sleep(Duration::from_secs(3)).await;
    access.revoke("ann");
    assert_eq!(listen(&server, "/topics/news.a", &long).await.status(), 401);
    while lasting.next().await.is_some() {}
    assert_eq!(begun.elapsed().as_secs(), 15);
    let later = Grant {
        iat: START + 20,
        exp: START + 3_600,
        ..grant()
    };
    let again = bearer(&access.token(&later));
    assert_eq!(
        listen(&server, "/topics/news.a", &again).await.status(),
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn a_replay_has_only_what_the_reader_may_see() {
    let (server, access) = start().await;
    let all = Grant {
        publish: vec!["news.a".into(), "secret".into()],
        ..grant()
    };
    let token = bearer(&access.token(&all));
    for topic in ["/topics/news.a", "/topics/secret", "/topics/news.a"] {
        assert_eq!(post(&server, topic, &token).await.0, 201);
    }
    let mut stream = listen(&server, "/topics/news.a,news.b?after=earliest", &token).await;
    stream.next().await.unwrap(); // the opening
    let blocks = [
        stream.next().await.unwrap(),
        stream.next().await.unwrap(),
        stream.next().await.unwrap(),
    ];
    let topics = blocks.map(|block| block.data().map(|_| block.json()["topic"].clone()));
    assert_eq!(topics, [Some("news.a".into()), Some("news.a".into()), None]);
    server.stop().await;
}

/// Everything that is logged, at any level.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_token_and_no_ticket_is_logged() {
    let lines = Lines::default();
    let writer = lines.clone();
    let logging = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    let logging = logging.with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(logging);
    let (server, access) = start().await;
    let token = access.token(&grant());
    let ticket = ticket(&server, &token).await;
    let path = format!("/topics/news.a?after=foreign-1&ticket={ticket}");
    let mut stream = listen(&server, &path, &("accept", "*/*".into())).await;
    stream.next().await.unwrap();
    assert_eq!(stream.next().await.unwrap().event(), Some("gap"));
    assert_eq!(listen(&server, &path, &bearer(&token)).await.status(), 401);
    drop(stream);
    server.stop().await;
    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("gap"),
        "or the test hears nothing: {logged}"
    );
    assert!(
        !logged.contains(&ticket) && !logged.contains(&token),
        "{logged}"
    );
}
