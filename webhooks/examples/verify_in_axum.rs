//! `verify` in an axum app: an extractor for Stripe's webhooks, one secret a line in `STRIPE_WEBHOOK_SECRET`.
//! `cargo run -p webhooks --example verify_in_axum -- 127.0.0.1:8007`
//!
//! To copy it: `cargo run -p copy -- webhooks verify DIR`. Add this file up to `main` as a module, and replace
//! `webhooks::` by `crate::`. What differs for GitHub is in `verify/README.md`. What also stores the events of both, and
//! handles each once, is `receive_in_axum.rs`.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::StatusCode,
    routing::post,
};
use webhooks::verify::{Unverified, Verified, stripe, unix_seconds};

/// The largest body. It is axum's default too. GitHub sends up to 25 MiB.
pub const MAX_BODY: usize = 2 << 20;

type Secrets = Arc<[stripe::Secret]>;

/// A request that Stripe has signed. Only the extractor makes one.
struct FromStripe(Verified<stripe::Event<Bytes>>);

impl FromRequest<Secrets> for FromStripe {
    type Rejection = StatusCode;

    async fn from_request(request: Request, secrets: &Secrets) -> Result<Self, StatusCode> {
        let headers = request.headers().clone();
        let fields = headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        // The bytes as they came, not `Json`: what is parsed and written again has another signature.
        let body = Bytes::from_request(request, secrets).await;
        // 413 if it is over the limit, 400 if it broke off.
        let body = Unverified::new(body.map_err(|rejection| rejection.status())?);
        let now = unix_seconds(SystemTime::now());
        match stripe::verify(body, fields, secrets, now, stripe::TOLERANCE) {
            Ok(event) => Ok(Self(event)),
            Err(refusal) => {
                eprintln!("not verified: {}", refusal.reason()); // for the log only
                Err(StatusCode::UNAUTHORIZED)
            }
        }
    }
}

/// Your part: store the event on disk before you answer, once for each `id` in the body.
async fn receive(FromStripe(event): FromStripe) -> StatusCode {
    println!("{}", event.body.len());
    StatusCode::OK
}

/// One route for each sender.
pub fn app(secrets: Secrets) -> Router {
    let app = Router::new().route("/webhook/stripe", post(receive));
    let app = app.layer(DefaultBodyLimit::max(MAX_BODY));
    app.with_state(secrets)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secrets = std::env::var("STRIPE_WEBHOOK_SECRET");
    let secrets = secrets.map_err(|_| "set STRIPE_WEBHOOK_SECRET, one secret a line")?;
    let secrets: Secrets = secrets.lines().map(str::parse).collect::<Result<_, _>>()?;
    let address = std::env::args().nth(1).ok_or("give IP:PORT to listen on")?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(secrets)).await?)
}
