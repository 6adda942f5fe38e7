//! `verify` in a hyper server: GitHub's webhooks, one secret a line in `GITHUB_WEBHOOK_SECRET`.
//! `cargo run -p webhooks --example verify_in_hyper -- 127.0.0.1:8007`

use std::{convert::Infallible, env, error::Error, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time::sleep};
use webhooks::verify::{Authentic, Unverified, Verified, github::Secret, github::verify};

/// The largest body that GitHub sends.
const MAX_BODY: usize = 25 << 20;
/// How long to wait when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secrets = env::var("GITHUB_WEBHOOK_SECRET");
    let secrets = secrets.map_err(|_| "set GITHUB_WEBHOOK_SECRET, one secret a line")?;
    let secrets: Vec<Secret> = secrets.lines().map(str::parse).collect::<Result<_, _>>()?;
    let secrets: &[Secret] = Vec::leak(secrets); // for all connections, to the end
    let address = env::args().nth(1).ok_or("give IP:PORT to listen on")?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = service_fn(move |request| answer(request, secrets));
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

type Answer = Response<Empty<Bytes>>;

async fn answer(request: Request<Incoming>, secrets: &[Secret]) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut response = Response::default();
    *response.status_mut() = match Limited::new(body, MAX_BODY).collect().await {
        Err(error) if error.is::<LengthLimitError>() => StatusCode::PAYLOAD_TOO_LARGE,
        Err(_) => StatusCode::BAD_REQUEST, // it broke off
        // The bytes as they came. What is parsed and written again has another signature.
        Ok(body) => match verify(Unverified::new(body.to_bytes()), fields, secrets) {
            Ok(event) => store(&event),
            Err(refusal) => {
                eprintln!("not verified: {}", refusal.reason()); // for the log only
                StatusCode::UNAUTHORIZED
            }
        },
    };
    Ok(response)
}

/// Your part: store the event on disk before you answer, once for each `X-GitHub-Delivery`.
fn store(event: &Verified<Authentic<Bytes>>) -> StatusCode {
    println!("{}", event.body.len());
    StatusCode::OK
}
