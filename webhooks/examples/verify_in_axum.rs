//! `verify` in an axum app: an extractor for Stripe's webhooks, one secret a line in `STRIPE_WEBHOOK_SECRET`.
//! `cargo run -p webhooks --example verify_in_axum -- 127.0.0.1:8007`

use std::{env, error::Error, sync::Arc, time::SystemTime};

use axum::{
    Router,
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
    routing::post,
};
use tokio::net::TcpListener;
use webhooks::verify::{Unverified, Verified, stripe, unix_seconds};

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
        let body = Unverified::new(body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?);
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secrets = env::var("STRIPE_WEBHOOK_SECRET")?;
    let secrets: Secrets = secrets.lines().map(str::parse).collect::<Result<_, _>>()?;
    let app = Router::new().route("/webhook/stripe", post(receive));
    let listener = TcpListener::bind(env::args().nth(1).ok_or("where to listen?")?).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app.with_state(secrets)).await?)
}
