//! The four senders over HTTP: requests as they send them, and wrong ones.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::Duration;

use bytes::Bytes;
use common::{After, Feed, PageLimit, Retention};
use harness::{Reply, TestServer};
use hmac::{Hmac, KeyInit, Mac};
use hyper::header::{HeaderMap, HeaderName};
use serde_json::Value;
use setup::{SECRET, Scratch, events, now, receiving, soon};
use sha2::Sha256;
use webhooks::{
    receiver::{
        Config,
        source::{Secrets, Source},
    },
    verify::standard::sign,
};

const STRIPE: &str = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH";
const GITHUB: &str = "It's a Secret to Everybody";
const TELEGRAM: &str = "AbC_-123";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// Much more than is verified in the runtime, and not too much for a build without optimization.
const MAX_BODY: usize = 256 << 10;

const PAYMENT: &str = include_str!("clients/payment_intent.succeeded.json");
const PUSH: &str = include_str!("clients/push.json");
const PING: &str = include_str!("clients/ping.json");
const UPDATE: &str = include_str!("clients/update.json");

/// A receiver for all four.
async fn start() -> (TestServer, Feed) {
    start_with(|_| {}).await
}

async fn start_with(adjust: impl FnOnce(&mut Config)) -> (TestServer, Feed) {
    let scratch = Scratch::new();
    let mut config = receiving(&scratch);
    config.stripe_secret = vec!["rolled".parse().unwrap(), STRIPE.parse().unwrap()];
    config.github_secret = vec![GITHUB.parse().unwrap()];
    config.telegram_secret = vec![TELEGRAM.parse().unwrap()];
    config.server.max_message = MAX_BODY;
    config.server.read_timeout = harness::PATIENCE;
    config.store_timeout = harness::PATIENCE; // large bodies, and a machine that may be busy
    adjust(&mut config);
    let feed = Feed::new(Retention::default());
    let published = feed.clone();
    let run = async move |listener, shutdown| {
        let _scratch = scratch;
        webhooks::receiver::run(listener, published, config, shutdown).await
    };
    (TestServer::start(run).await, feed)
}

fn hex(key: &str, parts: &[&[u8]]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    hex::encode(mac.finalize().into_bytes())
}

async fn post(
    server: &TestServer,
    path: &str,
    kind: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let client = server.client();
    let mut request = client.post(path, body).header("content-type", kind);
    for (name, value) in fields {
        request = request.header(name, value);
    }
    request.send().await
}

async fn stripe(server: &TestServer, body: &str, key: &str, time: u64) -> Reply {
    let signature = hex(key, &[time.to_string().as_bytes(), b".", body.as_bytes()]);
    let signature = format!("t={time},v1={signature}");
    let fields = [("stripe-signature", signature.as_str())];
    post(server, "/webhook/stripe", JSON, &fields, body.to_owned()).await
}

async fn github(server: &TestServer, event: &str, id: &str, kind: &str, body: &str) -> Reply {
    let signature = format!("sha256={}", hex(GITHUB, &[body.as_bytes()]));
    let fields = [
        ("X-Hub-Signature-256", signature.as_str()),
        ("X-GitHub-Event", event),
        ("X-GitHub-Delivery", id),
    ];
    post(server, "/webhook/github", kind, &fields, body.to_owned()).await
}

async fn telegram(server: &TestServer, token: &str, body: &str) -> Reply {
    let fields = [("X-Telegram-Bot-Api-Secret-Token", token)];
    post(server, "/webhook/telegram", JSON, &fields, body.to_owned()).await
}

#[tokio::test]
async fn events_of_all_four_are_listed_and_published() {
    let (server, feed) = start().await;
    let client = server.client();
    let form: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", PING)
        .finish();
    for reply in [
        setup::send(&client, "msg_1").await,
        stripe(&server, PAYMENT, STRIPE, now()).await,
        github(&server, "push", "72d3162e-1", JSON, PUSH).await,
        github(&server, "ping", "72d3162e-2", FORM, &form).await,
        telegram(&server, TELEGRAM, UPDATE).await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.text()), (200, ""));
    }
    let listed = events(&client).await;
    let field = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let listed: Vec<_> = listed
        .iter()
        .map(|event| {
            ["source", "id", "type"]
                .map(|name| field(event, name))
                .join(" ")
        })
        .collect();
    assert_eq!(
        listed,
        [
            "standard msg_1 payment.succeeded",
            "stripe evt_3MtwBwLkdIwHu7ix28a3tqPa payment_intent.succeeded",
            "github 72d3162e-1 push",
            "github 72d3162e-2 ping",
            "telegram 10000 message",
        ]
    );
    let ping = &events(&client).await[3];
    assert_eq!(
        ping["payload"],
        serde_json::from_str::<Value>(PING).unwrap()
    );
    let topics = "webhook,webhook.stripe,webhook.github,webhook.telegram"
        .parse()
        .unwrap();
    let published = soon(async {
        loop {
            let page = feed.read(&topics, &After::Earliest, PageLimit::default());
            let page = page.await.unwrap();
            if page.messages.len() == 5 {
                return page.messages;
            }
            tokio::task::yield_now().await;
        }
    });
    let mut kinds: Vec<_> = published
        .await
        .iter()
        .map(|it| it.kind.to_string())
        .collect();
    kinds.sort_unstable();
    let expected = [
        "message",
        "payment.succeeded",
        "payment_intent.succeeded",
        "ping",
        "push",
    ];
    assert_eq!(kinds, expected);
    server.stop().await;
}

#[tokio::test]
async fn an_event_of_stripe_that_cannot_be_stored_once_is_refused_with_the_reason() {
    let (server, _) = start().await;
    for (body, reason) in [
        ("{}", "the Stripe event has no id"),
        ("id=1", "the Stripe event is not a JSON object"),
    ] {
        let reply = stripe(&server, body, STRIPE, now()).await;
        assert_eq!(reply.json()["detail"], reason);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_forged_is_401_and_what_no_sender_writes_is_400() {
    let (server, _) = start().await;
    let good = format!("sha256={}", hex(GITHUB, &[PUSH.as_bytes()]));
    for (status, reply) in [
        (401, stripe(&server, PAYMENT, GITHUB, now()).await),
        (401, stripe(&server, PAYMENT, STRIPE, now() - 1_000).await),
        (
            401,
            post(&server, "/webhook/stripe", JSON, &[], PAYMENT).await,
        ),
        (
            400,
            post(
                &server,
                "/webhook/stripe",
                JSON,
                &[("stripe-signature", "v1=x")],
                "{}",
            )
            .await,
        ),
        (400, stripe(&server, "{}", STRIPE, now()).await),
        (
            400,
            stripe(&server, "{\"id\":\"a b\"}", STRIPE, now()).await,
        ),
        (401, post(&server, "/webhook/github", JSON, &[], PUSH).await),
        (
            400,
            post(
                &server,
                "/webhook/github",
                JSON,
                &[("x-hub-signature-256", "sha1=")],
                PUSH,
            )
            .await,
        ),
        // Genuine, but it does not say which event it is.
        (
            400,
            post(
                &server,
                "/webhook/github",
                JSON,
                &[("x-hub-signature-256", &good)],
                PUSH,
            )
            .await,
        ),
        (400, github(&server, "ping", "1", FORM, "payloads=1").await),
        (415, github(&server, "ping", "1", "text/plain", PING).await),
        (401, telegram(&server, "AbC_-12", UPDATE).await),
        (401, telegram(&server, "abc_-123", UPDATE).await),
        (400, telegram(&server, "a b", UPDATE).await),
        (
            401,
            post(&server, "/webhook/telegram", JSON, &[], UPDATE).await,
        ),
        (400, telegram(&server, TELEGRAM, "{}").await),
        (
            400,
            telegram(&server, TELEGRAM, "{\"update_id\":1.5}").await,
        ),
        (
            415,
            post(&server, "/webhook/telegram", FORM, &[], UPDATE).await,
        ),
        (
            415,
            post(
                &server,
                "/webhook/stripe",
                JSON,
                &[("content-encoding", "gzip")],
                "",
            )
            .await,
        ),
    ] {
        assert_eq!(reply.status, status, "{}", reply.text());
        if status == 401 {
            assert_eq!(reply.json()["detail"], "not genuine");
        }
    }
    assert_eq!(events(&server.client()).await.len(), 0);
    for path in ["/webhook/stripe", "/webhook/github", "/webhook/telegram"] {
        assert_eq!(server.get(path).await.header("allow"), Some("POST"));
    }
    server.stop().await;
}

/// Like Stripe's libraries for Node, Python, Ruby and Go.
#[tokio::test]
async fn of_stripe_a_time_ahead_of_ours_is_taken_unless_it_has_a_bound() {
    let (server, _) = start_with(|config| config.future = Some(Duration::from_secs(60))).await;
    let ahead = stripe(&server, PAYMENT, STRIPE, now() + 1_000).await;
    assert_eq!(ahead.status, 401, "{}", ahead.text());
    assert_eq!(
        stripe(&server, PAYMENT, STRIPE, now() + 30).await.status,
        200
    );
    server.stop().await;
    let (server, _) = start().await;
    let ahead = stripe(&server, PAYMENT, STRIPE, now() + 100_000).await;
    assert_eq!(ahead.status, 200, "{}", ahead.text());
    server.stop().await;
}

#[test]
fn a_signed_time_passes_up_to_the_tolerance_and_not_a_second_more() {
    const TIME: u64 = 1_700_000_000;
    let sixty = Duration::from_secs(60);
    let signature = hex(STRIPE, &[format!("{TIME}.{PAYMENT}").as_bytes()]);
    let signature = format!("t={TIME},v1={signature}");
    let standard = sign(&[SECRET.parse().unwrap()], "m", TIME, PAYMENT.as_bytes());
    let fields = [("content-type", JSON), ("stripe-signature", &signature)];
    let fields = fields.into_iter();
    let fields = fields.chain(standard.iter().map(|(name, value)| (*name, value.as_str())));
    let headers: HeaderMap = fields
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
    for (source, past, future, now, passes) in [
        (Source::Standard, Some(sixty), None, TIME + 60, true),
        (Source::Standard, Some(sixty), None, TIME + 61, false),
        (Source::Standard, Some(sixty), None, TIME - 300, true),
        (Source::Standard, Some(sixty), None, TIME - 301, false),
        (Source::Standard, Some(sixty), Some(sixty), TIME - 60, true),
        (Source::Standard, Some(sixty), Some(sixty), TIME - 61, false),
        (Source::Stripe, Some(sixty), None, TIME + 60, true),
        (Source::Stripe, Some(sixty), None, TIME + 61, false),
        (Source::Stripe, Some(sixty), None, 0, true),
        (Source::Stripe, Some(sixty), Some(sixty), TIME - 60, true),
        (Source::Stripe, Some(sixty), Some(sixty), TIME - 61, false),
        (Source::Standard, None, None, TIME + 300, true),
        (Source::Standard, None, None, TIME + 301, false),
        (Source::Stripe, None, None, TIME + 300, true),
        (Source::Stripe, None, None, TIME + 301, false),
    ] {
        let secrets = Secrets {
            standard: vec![SECRET.parse().unwrap()],
            stripe: vec![STRIPE.parse().unwrap()],
            past,
            future,
            ..Secrets::default()
        };
        let verified = secrets.verify(source, &headers, PAYMENT.into(), now);
        assert_eq!(
            verified.is_ok(),
            passes,
            "{source:?} {past:?} {future:?} {now}"
        );
    }
}

#[tokio::test]
async fn a_repeat_is_told_by_what_each_sender_repeats() {
    let (server, _) = start().await;
    for _ in 0..2 {
        // Stripe changes a counter in the body, so a repeat may have other bytes.
        let counted = PAYMENT.replace("\"pending_webhooks\": 1", "\"pending_webhooks\": 0");
        let sent = stripe(&server, &counted, STRIPE, now());
        assert_eq!(sent.await.status, 200);
        assert_eq!(stripe(&server, PAYMENT, STRIPE, now()).await.status, 200);
        assert_eq!(github(&server, "push", "g-1", JSON, PUSH).await.status, 200);
        assert_eq!(telegram(&server, TELEGRAM, UPDATE).await.status, 200);
    }
    assert_eq!(events(&server.client()).await.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn githubs_bytes_under_another_id_are_stored_and_suspect() {
    let (server, _) = start().await;
    for id in ["g-1", "g-1", "g-2"] {
        assert_eq!(github(&server, "push", id, JSON, PUSH).await.status, 200);
    }
    github(&server, "ping", "g-3", JSON, PING).await;
    let events = events(&server.client()).await;
    let suspect: Vec<_> = events
        .iter()
        .map(|event| event["suspect"].as_bool())
        .collect();
    assert_eq!(suspect, [Some(false), Some(true), Some(false)]);
    server.stop().await;
}

#[tokio::test]
async fn a_type_that_is_not_known_is_stored_like_any() {
    let (server, _) = start().await;
    let body = "{\"id\":\"evt_9\",\"type\":\"über, neu\"}";
    assert_eq!(stripe(&server, body, STRIPE, now()).await.status, 200);
    assert_eq!(
        github(&server, "brand_new", "g-9", JSON, "").await.status,
        200
    );
    let events = events(&server.client()).await;
    assert_eq!(
        (&events[0]["type"], &events[1]["type"]),
        (&"message".into(), &"brand_new".into())
    );
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken_from_any_sender_and_one_byte_more_is_not() {
    let (server, _) = start().await;
    let update = |size: usize| {
        let frame = "{\"update_id\":1,\"message\":\"\"}".len();
        format!(
            "{{\"update_id\":1,\"message\":\"{}\"}}",
            "x".repeat(size - frame)
        )
    };
    assert_eq!(
        telegram(&server, TELEGRAM, &update(MAX_BODY + 1))
            .await
            .status,
        413
    );
    assert_eq!(
        telegram(&server, TELEGRAM, &update(MAX_BODY)).await.status,
        200
    );
    let large = "x".repeat(MAX_BODY);
    let sent = (0..6).map(|id| {
        let (server, large) = (&server, &large);
        async move {
            github(server, "push", &format!("g-{id}"), JSON, large)
                .await
                .status
        }
    });
    for status in futures(sent).await {
        assert_eq!(status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn any_json_is_taken_and_an_encoding_that_changes_nothing() {
    let (server, _) = start().await;
    for (id, kind) in [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/cloudevents+json",
        "application/vnd.acme.v2+JSON;v=1",
    ]
    .iter()
    .enumerate()
    {
        let reply = github(&server, "push", &format!("g-{id}"), kind, PUSH).await;
        assert_eq!(reply.status, 200, "{kind}: {}", reply.text());
    }
    for (status, encoding) in [
        (200, "identity"),
        (200, "Identity"),
        (200, "identity, identity"),
        (200, ""),
        (415, "gzip"),
        (415, "identity, gzip"),
    ] {
        let signature = format!("sha256={}", hex(GITHUB, &[PUSH.as_bytes()]));
        let fields = [
            ("X-Hub-Signature-256", signature.as_str()),
            ("X-GitHub-Event", "push"),
            ("X-GitHub-Delivery", "g-e"),
            ("Content-Encoding", encoding),
        ];
        let reply = post(&server, "/webhook/github", JSON, &fields, PUSH).await;
        assert_eq!(reply.status, status, "{encoding}: {}", reply.text());
    }
    for kind in [
        "text/json",
        "+json",
        "application/jsonx",
        "application/json+x",
    ] {
        assert_eq!(
            github(&server, "push", "g", kind, PUSH).await.status,
            415,
            "{kind}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn an_id_that_comes_again_with_other_content_is_stored_as_suspect_and_not_handled() {
    let (server, _) = start().await;
    let client = server.client();
    let stripes = |amount: u32| PAYMENT.replace("2000", &amount.to_string());
    for amount in [1, 2, 2] {
        let standard = format!("{{\"type\":\"a\",\"data\":{amount}}}");
        assert_eq!(setup::send_body(&client, "m", &standard).await.status, 200);
        let payment = stripes(amount);
        assert_eq!(stripe(&server, &payment, STRIPE, now()).await.status, 200);
        let push = format!("{{\"n\":{amount}}}");
        assert_eq!(github(&server, "push", "g", JSON, &push).await.status, 200);
        let update = format!("{{\"update_id\":1,\"message\":{amount}}}");
        assert_eq!(telegram(&server, TELEGRAM, &update).await.status, 200);
    }
    let settled = |event: &Value| event["state"] != "waiting";
    let events = setup::when_all(&client, settled).await;
    let states: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["suspect"].as_bool().unwrap(),
                event["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [[(false, "handled"); 4], [(true, "dead"); 4]].concat()
    );
    for event in &events[4..] {
        let why = "this id came before with other content: handled only if it is retried by hand";
        assert_eq!(event["error"], why);
    }
    server.stop().await;
}

/// All of them at the same time.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}
