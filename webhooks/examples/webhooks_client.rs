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
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
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
    Tolerance, Unverified, Verified,
    standard::{Event, Secret, verify},
    unix_seconds,
};

/// The largest body that is accepted.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take. The sender waits about 15 s for the answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many ids are remembered, to recognize a repeat.
const REMEMBERED: usize = 10_000;
/// How often to check that the sender still knows us. Also the longest pause between two attempts, and the
/// timeout of each step of a request.
const LOOK: Duration = Duration::from_secs(5);
/// How long to wait when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        secret: Secret::from_key(rand::random::<[u8; 32]>()),
        kept: Mutex::new(Kept::to(output)),
    };
    let registration = serde_json::json!({
        "url": format!("http://{}/webhook", listener.local_addr()?),
        "topics": args.topics,
        "secret": inbox.secret.reveal(),
    });
    tokio::select! {
        refused = stay_registered(&args.sender, registration.to_string()) => Err(refused),
        never = receive(listener, inbox.into()) => match never {},
    }
}

struct Inbox<W> {
    secret: Secret,
    kept: Mutex<Kept<W>>,
}

async fn receive(
    listener: TcpListener,
    inbox: Arc<Inbox<impl Write + Send + 'static>>,
) -> Infallible {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let inbox = inbox.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| async {
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = inbox.take(request).await;
                Ok::<_, Infallible>(response)
            });
            let mut http = http1::Builder::new();
            let connection = http.timer(TokioTimer::new());
            // If the connection breaks, the sender tries again.
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
        let now = unix_seconds(SystemTime::now());
        let body = Unverified::new(body.to_bytes());
        let secrets = std::slice::from_ref(&self.secret);
        match verify(body, fields, secrets, now, Tolerance::default()) {
            Ok(event) => self.keep(&event),
            Err(refusal) => {
                eprintln!("not verified: {}", refusal.reason());
                StatusCode::UNAUTHORIZED
            }
        }
    }

    /// If it cannot be kept, the 503 makes the sender send it again.
    fn keep(&self, event: &Verified<Event<Bytes>>) -> StatusCode {
        let mut kept = self.kept.lock().expect("nothing panics under this lock");
        match kept.keep(&event.id, &event.body) {
            Ok(()) => StatusCode::OK,
            Err(error) => {
                eprintln!("cannot keep {}: {error}", event.id);
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// Prints each event once. A real back end has the ids and the events in one database.
struct Kept<W> {
    output: W,
    ids: HashSet<String>,
    /// The same ids, oldest first.
    by_age: VecDeque<String>,
}

impl<W: Write> Kept<W> {
    fn to(output: W) -> Self {
        Self {
            output,
            ids: HashSet::new(),
            by_age: VecDeque::new(),
        }
    }

    /// Prints an event that is new, and then remembers its id. In this order, because an event that failed
    /// comes again and must not look like a repeat.
    fn keep(&mut self, id: &str, body: &[u8]) -> io::Result<()> {
        if self.ids.contains(id) {
            return Ok(());
        }
        self.output.write_all(&[body, b"\n"].concat())?;
        self.ids.insert(id.to_owned());
        self.by_age.push_back(id.to_owned());
        if self.by_age.len() > REMEMBERED
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.ids.remove(&oldest);
        }
        Ok(())
    }
}

/// Registers, and registers again when the sender has forgotten us. A sender in memory does so at a restart.
/// Returns only the reason of a refusal, because another attempt would not help.
async fn stay_registered(sender: &Uri, registration: String) -> Box<dyn Error + Send + Sync> {
    let (mut place, mut failures) = (None::<Uri>, 0);
    loop {
        let request = match &place {
            Some(place) => Request::get(place.clone()).body(Full::default()),
            None => Request::post("/endpoints")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::from(registration.clone())),
        };
        let request = request.expect("a URI and constant fields are a request");
        match ask(sender, request).await {
            // Without a place it would register again and again.
            Ok((StatusCode::CREATED, None, _)) => {
                return "the sender gave no Location that is a URI".into();
            }
            Ok((StatusCode::CREATED, location, _)) => place = location,
            Ok((StatusCode::OK, ..)) => failures = 0,
            Ok((StatusCode::NOT_FOUND, ..)) if place.take().is_some() => continue,
            Ok((status, _, body)) if status.is_client_error() => return body.into(),
            Ok((status, ..)) => {
                eprintln!("the sender: {status}; trying again");
                failures += 1;
            }
            Err(error) => {
                eprintln!("the sender: {error}; trying again");
                failures += 1;
            }
        }
        sleep(if failures == 0 {
            LOOK
        } else {
            backoff(failures, rand::random())
        })
        .await;
    }
}

/// Full jitter: any time up to a bound that doubles with each failure.
fn backoff(failures: u32, random: f64) -> Duration {
    let bound = Duration::from_millis(250) * 2_u32.saturating_pow(failures.min(16));
    bound.min(LOOK).mul_f64(random)
}

/// One request on its own connection. Returns the status, the `Location`, and the body.
async fn ask(
    sender: &Uri,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<Uri>, String), Box<dyn Error + Send + Sync>> {
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
    let location = location.and_then(|value| Uri::try_from(value.as_bytes()).ok());
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((head.status, location, body))
}
