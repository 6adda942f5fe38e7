//! The client's half of Server-Sent Events: open the stream, print, reconnect after the last id.
//!
//! ```sh
//! cargo run -p sse --example sse_client -- http://127.0.0.1:8005/topics/news
//! ```

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use common::seconds;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request, Response, Uri, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use sse::parse::{self, Event};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a connection may take to open and to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest pause between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How long to wait until the server has sent a `retry:`.
const RETRY: Duration = Duration::from_secs(3);

/// Listens to topics and prints the messages.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// What to listen to: http://HOST:PORT/topics/a,b
    pub url: Uri,
    /// The cursor to start after. Without it: the URL's `after=`, or else only new messages.
    #[arg(long, default_value = "")]
    pub after: String,
    /// Reconnect after this many seconds without a byte: three of the server's heartbeats.
    #[arg(long, default_value = "45", value_parser = seconds, value_name = "SECONDS")]
    pub silence: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let error = Listener::new(Args::parse()).run(&mut io::stdout()).await;
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// What a client keeps: a position, and how long to wait before it reconnects.
#[derive(Debug)]
pub struct Listener {
    args: Args,
    last_event_id: String,
    retry: Duration,
    /// Connections since the position last moved.
    failures: u32,
}

/// An error that reconnecting does not fix.
#[derive(Debug)]
struct Final(String);

impl Listener {
    /// A listener that has not connected yet.
    pub fn new(args: Args) -> Self {
        Self {
            last_event_id: args.after.clone(),
            args,
            retry: RETRY,
            failures: 0,
        }
    }

    /// Listens until a final error, and returns it.
    pub async fn run(&mut self, output: &mut impl Write) -> String {
        loop {
            match self.listen(output).await {
                Err(error) if error.is::<Final>() => return error.to_string(),
                Err(error) => eprintln!("{error}; reconnecting after {:?}", self.last_event_id),
                Ok(()) => eprintln!(
                    "the stream ended; reconnecting after {:?}",
                    self.last_event_id
                ),
            }
            sleep(backoff(self.retry, self.failures, rand::random())).await;
            self.failures += 1;
        }
    }

    /// One connection, to its end.
    async fn listen(&mut self, output: &mut impl Write) -> Result<(), Box<dyn Error>> {
        let mut connection = JoinSet::new(); // Dropped with this future, and the socket with it.
        let response = timeout(CONNECT, self.open(&mut connection)).await??;
        let mut parser = parse::Parser::resuming(&self.last_event_id);
        let mut body = response.into_body();
        while let Some(frame) = timeout(self.args.silence, body.frame()).await? {
            for event in parser.feed(&frame?.into_data().unwrap_or_default()) {
                Self::take(&event, output)?;
            }
            if parser.last_event_id() != self.last_event_id {
                parser.last_event_id().clone_into(&mut self.last_event_id);
                self.failures = 0; // The stream works, even if only its position moves.
            }
            self.retry = parser.retry().unwrap_or(self.retry);
        }
        Ok(())
    }

    async fn open(
        &mut self,
        connection: &mut JoinSet<()>,
    ) -> Result<Response<Incoming>, Box<dyn Error>> {
        let url = &self.args.url;
        let (Some("http"), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(Final(format!("{url} is not http://HOST:PORT/…")).into());
        };
        let stream =
            TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        connection.spawn(async { drop(driver.await) });
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::get(target).header(header::HOST, authority.as_str());
        if !self.last_event_id.is_empty() {
            request = request.header("Last-Event-ID", &self.last_event_id);
        }
        let response = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        self.retry = retry_after(response.headers()).unwrap_or(self.retry);
        match response.status().as_u16() {
            200 if is_event_stream(response.headers()) => Ok(response),
            200 => Err(Final("the answer is not an event stream".into()).into()),
            408 | 429 | 500.. => Err(problem(response).await.into()),
            _ => Err(Final(problem(response).await).into()),
        }
    }

    /// Prints a message's JSON, or `gap` and the gap's JSON.
    fn take(event: &Event, output: &mut impl Write) -> Result<(), Final> {
        let printed = match event.event.as_str() {
            "message" => writeln!(output, "{}", event.data),
            named => writeln!(output, "{named} {}", event.data),
        };
        printed.map_err(|error| Final(format!("printing: {error}")))
    }
}

/// Whether the answer is an event stream. Another type must not be parsed as one (HTML §9.2.2).
fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let essence = content_type.and_then(|value| value.to_str().ok()?.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// How long a refusal asks the client to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u32 = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds.into()))
}

async fn problem(response: Response<Incoming>) -> String {
    let status = response.status();
    match response.into_body().collect().await {
        Ok(body) => format!("{status}: {}", String::from_utf8_lossy(&body.to_bytes())),
        Err(_) => status.to_string(),
    }
}

/// The server's `retry` after a stream that worked. After a failure, any time up to a bound that
/// doubles with each failure, so that clients that lost the same server do not reconnect together.
pub fn backoff(retry: Duration, failures: u32, random: f64) -> Duration {
    if failures == 0 {
        return retry;
    }
    let ceiling = retry
        .saturating_mul(1 << failures.min(10))
        .min(MAX_BACKOFF.max(retry));
    ceiling.mul_f64(random)
}

impl std::fmt::Display for Final {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Final {}
