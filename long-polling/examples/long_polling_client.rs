//! The client's half of long polling: ask, wait for the answer, print, ask again at once.
//!
//! ```sh
//! cargo run -p long-polling --example long_polling_client -- http://127.0.0.1:8002/topics/news
//! ```

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::{Parser, value_parser};
use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header,
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// Waits for news and prints the messages.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// What to poll: http://HOST:PORT/topics/a,b, with a query such as ?limit=10 if you want one.
    pub url: Uri,
    /// Where to start: a cursor, `earliest` or `latest`.
    #[arg(long, default_value = "earliest")]
    pub after: String,
    /// How long the server may hold its answer, in seconds, 1 to 55.
    #[arg(long, default_value_t = 25, value_parser = value_parser!(u8).range(1..=55), value_name = "SECONDS")]
    pub wait: u8,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let error = match Reader::new(Args::parse()) {
        Ok(mut reader) => reader.run(&mut io::stdout()).await,
        Err(error) => error,
    };
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// What a client keeps between two polls.
#[derive(Debug)]
pub struct Reader {
    server: Server,
    /// The cursor: everything up to here was printed.
    after: String,
    args: Args,
}

/// The server, on a connection that is kept from poll to poll.
#[derive(Debug)]
struct Server {
    authority: String,
    /// The kept connection.
    open: Option<Connection>,
}

/// The answer to one poll.
#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    next: String,
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
}

/// Why a poll failed.
#[derive(Debug)]
pub enum Failure {
    /// Another poll would fail too.
    Final(String),
    /// Another poll may succeed, but not before this time has passed.
    Passing(String, Duration),
}

impl Reader {
    /// Starts where the arguments say.
    ///
    /// # Errors
    /// If the URL is not `http://HOST:PORT/…`.
    pub fn new(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            server: Server::at(&args.url)?,
            after: args.after.clone(),
            args,
        })
    }

    /// Polls until a final failure, and returns it.
    pub async fn run(&mut self, output: &mut impl Write) -> Failure {
        let mut failures = 0;
        loop {
            match self.poll(output).await {
                Ok(()) => failures = 0,
                Err(Failure::Passing(reason, at_least)) => {
                    failures += 1;
                    eprintln!("{reason}; asking again after {}", self.after);
                    sleep(at_least + backoff(failures, rand::random())).await;
                }
                Err(error) => return error,
            }
        }
    }

    /// One poll, for as long as the server holds it.
    ///
    /// # Errors
    /// If there was no answer, or one that is not 200. The cursor then stays where it is.
    pub async fn poll(&mut self, output: &mut impl Write) -> Result<(), Failure> {
        // `latest` names a position only once there is an answer. If a poll that waits for one breaks, the next would
        // skip what came in between.
        let wait = match self.after.as_str() {
            "latest" => 0,
            _ => self.args.wait,
        };
        let path = with(&self.args.url, &format!("after={}&wait={wait}", self.after));
        let time = Duration::from_secs(wait.into()) + SLACK;
        match self.server.get(&path, time).await? {
            (head, body) if head.status == StatusCode::OK => self.take(&body, output),
            (head, body) => Err(refused(head.status, &head.headers, &body)),
        }
    }

    /// Prints a page, then moves the cursor. In this order a crash repeats a page, and never skips one.
    fn take(&mut self, body: &[u8], output: &mut impl Write) -> Result<(), Failure> {
        let page: Page<'_> = serde_json::from_slice(body)
            .map_err(|error| Failure::Final(format!("the answer is not a page: {error}")))?;
        if let Some(gap) = page.gap {
            say(output, &format!("gap {gap}"))?;
        }
        for message in &page.messages {
            say(output, message.get())?;
        }
        self.after = page.next;
        Ok(())
    }
}

impl Server {
    fn at(url: &Uri) -> Result<Self, Failure> {
        match (url.scheme_str(), url.authority()) {
            (Some("http"), Some(authority)) => Ok(Self {
                authority: authority.to_string(),
                open: None,
            }),
            _ => Err(Failure::Final(format!("{url} is not http://HOST:PORT/…"))),
        }
    }

    /// One whole answer.
    async fn get(&mut self, path: &str, time: Duration) -> Result<(Parts, Bytes), Failure> {
        let lost = match timeout(time, self.try_get(path)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(Failure::Passing(lost, Duration::ZERO))
    }

    async fn try_get(&mut self, path: &str) -> Result<(Parts, Bytes), Lost> {
        let request = Request::get(path)
            .header(header::HOST, &self.authority)
            .body(Empty::new())?;
        if let Some(kept) = self.open.take() {
            match self.exchange(kept, request.clone()).await {
                Err(lost) if was_unsent(&lost) => {}
                done => return done,
            }
        }
        let new = connect(&self.authority).await?;
        self.exchange(new, request).await
    }

    /// Keeps the connection if it gave a whole answer.
    async fn exchange(
        &mut self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Parts, Bytes), Lost> {
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.open = Some(connection);
        Ok((head, body))
    }
}

/// The URL's path and query, with `parameters` added.
fn with(url: &Uri, parameters: &str) -> String {
    let before = url
        .query()
        .map_or("?".to_owned(), |query| format!("?{query}&"));
    format!("{}{before}{parameters}", url.path())
}

type Connection = SendRequest<Empty<Bytes>>;

/// Why there was no whole answer.
type Lost = Box<dyn Error + Send + Sync>;

/// Whether the server had closed the kept connection before the request was sent. A connection that
/// breaks later is a failure with a backoff, so that clients do not all come back at once after a restart.
fn was_unsent(lost: &Lost) -> bool {
    let error = lost.downcast_ref::<hyper::Error>();
    error.is_some_and(|error| error.is_closed() || error.is_canceled())
}

async fn connect(authority: &str) -> Result<Connection, Lost> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // An error reaches the request that waits for its answer.
    tokio::spawn(connection);
    Ok(sender)
}

/// A 4xx means that the request itself is wrong, except for 408 and 429.
fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let reason = format!("{status}: {}", String::from_utf8_lossy(body));
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_client_error() && !passing.contains(&status) {
        return Failure::Final(reason);
    }
    let at_least = seconds_in(headers, header::RETRY_AFTER.as_str());
    Failure::Passing(reason, at_least.unwrap_or_default())
}

fn seconds_in(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let seconds: u32 = headers.get(name)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

/// Full jitter: any time up to a bound that doubles with each failure, so that clients of one server
/// come back spread over the whole time. `random` is from 0 to 1.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let bound = FIRST_BACKOFF.saturating_mul(1 << (failures - 1).min(16));
    bound.min(LONGEST_BACKOFF).mul_f64(random)
}

fn say(output: &mut impl Write, line: &str) -> Result<(), Failure> {
    let printed = writeln!(output, "{line}").and_then(|()| output.flush());
    printed.map_err(|error| Failure::Final(format!("printing: {error}")))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Final(reason) | Self::Passing(reason, _)) = self;
        f.write_str(reason)
    }
}

/// How much longer than its wait an answer may take.
const SLACK: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
