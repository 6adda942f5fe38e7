//! The client's half of webhooks: register an address, verify what is POSTed there, print each
//! message once.
//!
//! ```sh
//! cargo run -p webhooks --example webhooks_client -- http://127.0.0.1:8003 --topics payments
//! ```

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    error::Error,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri, body::Incoming, client, header,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use webhooks::verify::{
    Tolerance, Unverified,
    standard::{Secret, verify},
};

/// The largest body that is taken.
const MAX_BODY: usize = 1 << 20;
/// The sender gives us about 15 s; a body that takes longer than this is not worth the wait.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many ids are remembered to tell a repeat.
const REMEMBERED: usize = 10_000;
/// How often to look whether the sender still knows us, and how long at most between two tries.
const LOOK: Duration = Duration::from_secs(5);

/// Registers at a sender of webhooks and prints what it is sent.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// The sender: http://HOST:PORT
    pub sender: Uri,
    /// The topics to be called about.
    #[arg(long, value_delimiter = ',', default_value = "payments")]
    pub topics: Vec<String>,
    /// Where to be called; the sender must be able to reach it.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse(), io::stdout()).await {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Receives for ever, and prints to `output`.
///
/// # Errors
/// If the address cannot be listened on, or the sender refuses the registration.
pub async fn run(
    args: Args,
    output: impl Write + Send + 'static,
) -> Result<Infallible, Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind(args.listen).await?;
    let inbox = Inbox {
        secret: Secret::from_random(rand::random()),
        seen: Mutex::default(),
        output: Mutex::new(output),
    };
    let registration = serde_json::json!({
        "url": format!("http://{}/webhook", listener.local_addr()?),
        "topics": args.topics,
        "secret": inbox.secret.reveal(),
    });
    tokio::select! {
        refused = stay_registered(&args.sender, registration.to_string()) => Err(refused),
        ended = receive(listener, inbox.into()) => ended,
    }
}

/// What came, each id once.
struct Inbox<W> {
    secret: Secret,
    seen: Mutex<(HashSet<String>, VecDeque<String>)>,
    output: Mutex<W>,
}

async fn receive(
    listener: TcpListener,
    inbox: std::sync::Arc<Inbox<impl Write + Send + 'static>>,
) -> Result<Infallible, Box<dyn Error + Send + Sync>> {
    loop {
        let (stream, _) = listener.accept().await?;
        let inbox = inbox.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| async {
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = inbox.take(request).await;
                Ok::<_, Infallible>(response)
            });
            let mut http = http1::Builder::new();
            let connection = http.timer(TokioTimer::new());
            // A broken connection is the sender's to repeat.
            let _ = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl<W: Write> Inbox<W> {
    /// One webhook: the limits first, then the signature, and only then a look at what it says.
    async fn take(&self, request: Request<Incoming>) -> StatusCode {
        if request.method() != Method::POST {
            return StatusCode::METHOD_NOT_ALLOWED;
        }
        let (head, body) = request.into_parts();
        let Ok(body) = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await else {
            return StatusCode::REQUEST_TIMEOUT;
        };
        let Ok(body) = body else {
            return StatusCode::PAYLOAD_TOO_LARGE;
        };
        let fields = head.headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let body = Unverified::new(body.to_bytes());
        let secrets = std::slice::from_ref(&self.secret);
        match verify(body, fields, secrets, now, Tolerance::default()) {
            Ok(event) if self.is_new(&event.id) => self.print(&event.body),
            Ok(_) => StatusCode::OK, // a repeat
            Err(refusal) => {
                eprintln!("not believed: {refusal}");
                StatusCode::UNAUTHORIZED
            }
        }
    }

    fn is_new(&self, id: &str) -> bool {
        let mut seen = self.seen.lock().expect("nothing panics under this lock");
        let (ids, by_age) = &mut *seen;
        if !ids.insert(id.to_owned()) {
            return false;
        }
        by_age.push_back(id.to_owned());
        if by_age.len() > REMEMBERED
            && let Some(oldest) = by_age.pop_front()
        {
            ids.remove(&oldest);
        }
        true
    }

    /// A real back end stores the event here, and says 503 if it cannot.
    fn print(&self, body: &[u8]) -> StatusCode {
        let mut output = self.output.lock().expect("nothing panics under this lock");
        match output.write_all(&[body, b"\n"].concat()) {
            Ok(()) => StatusCode::OK,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Registers, and again whenever the sender has forgotten us, as one in memory does at a restart.
/// Returns the reason of a refusal, since asking again would not help.
async fn stay_registered(sender: &Uri, registration: String) -> Box<dyn Error + Send + Sync> {
    let (mut place, mut failures) = (None, 0);
    loop {
        let request = match &place {
            Some(place) => Request::get(place).body(Full::default()),
            None => Request::post("/endpoints")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::from(registration.clone())),
        };
        let request = request.expect("what a server calls a location is one");
        match ask(sender, request).await {
            Ok((StatusCode::CREATED, location, _)) => place = location,
            Ok((StatusCode::OK, ..)) => failures = 0,
            Ok((StatusCode::NOT_FOUND, ..)) if place.take().is_some() => continue,
            Ok((status, _, body)) if status.is_client_error() => return body.into(),
            Ok((status, ..)) => failures = 1 + log(failures, &status),
            Err(error) => failures = 1 + log(failures, &error),
        }
        sleep(if failures == 0 {
            LOOK
        } else {
            backoff(failures, rand::random())
        })
        .await;
    }
}

fn log(failures: u32, reason: &dyn std::fmt::Display) -> u32 {
    eprintln!("the sender: {reason}; trying again");
    failures
}

/// Full jitter: anything up to a bound that doubles with each failure.
fn backoff(failures: u32, random: f64) -> Duration {
    let bound = Duration::from_millis(250) * 2_u32.saturating_pow(failures.min(16));
    bound.min(LOOK).mul_f64(random)
}

/// One request on a connection of its own: the status, where the new thing is, and the body.
async fn ask(
    sender: &Uri,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<String>, String), Box<dyn Error + Send + Sync>> {
    let authority = sender
        .authority()
        .ok_or("the sender is not http://HOST:PORT")?;
    request
        .headers_mut()
        .insert(header::HOST, authority.as_str().parse()?);
    let address = (authority.host(), authority.port_u16().unwrap_or(80));
    let stream = timeout(LOOK, TcpStream::connect(address)).await??;
    let (mut http, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new(); // ends with this function
    driver.spawn(connection);
    let (head, body) = timeout(LOOK, http.send_request(request))
        .await??
        .into_parts();
    let body = timeout(LOOK, Limited::new(body, MAX_BODY).collect()).await??;
    let location = head.headers.get(header::LOCATION);
    let location = location.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((head.status, location, body))
}
