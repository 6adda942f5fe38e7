//! The client's half of short polling: poll, print, wait, poll again.
//!
//! ```sh
//! cargo run -p short-polling --example short_polling_client -- http://127.0.0.1:8001/topics/news
//! ```

use std::{
    error::Error,
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use common::seconds;
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

/// Polls for news. Prints each message on a line.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// What to poll: http://HOST:PORT/topics/a,b, with a query such as ?limit=10 if you want one.
    pub url: Uri,
    /// Where to start: a cursor, `earliest` or `latest`.
    #[arg(long, default_value = "earliest")]
    pub after: String,
    /// Keep the cursor in this file, and start from it if the file exists.
    #[arg(long, value_name = "PATH")]
    pub cursor_file: Option<PathBuf>,
    /// How long to wait between polls if the server gives no hint, in seconds.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    pub interval: Duration,
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
    /// The ETag of the last answer.
    etag: Option<String>,
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
    more: bool,
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
    /// Starts at the cursor in the file, or else where the arguments say.
    ///
    /// # Errors
    /// If the URL is invalid, or the file exists and cannot be read.
    pub fn new(args: Args) -> Result<Self, Failure> {
        let kept = match &args.cursor_file {
            Some(path) => load(path).map_err(cursor_file)?,
            None => None,
        };
        Ok(Self {
            server: Server::at(&args.url)?,
            after: kept.unwrap_or_else(|| args.after.clone()),
            etag: None,
            args,
        })
    }

    /// Polls until a final failure, and returns it.
    pub async fn run(&mut self, output: &mut impl Write) -> Failure {
        let mut failures = 0;
        loop {
            let pause = match self.poll(output).await {
                Ok(pause) => {
                    failures = 0;
                    pause
                }
                Err(Failure::Passing(reason, at_least)) => {
                    failures += 1;
                    eprintln!("{reason}; asking again after {}", self.after);
                    at_least + backoff(failures, rand::random())
                }
                Err(error) => return error,
            };
            sleep(pause).await;
        }
    }

    /// One poll. Returns how long to wait until the next.
    ///
    /// # Errors
    /// If there was no answer, or one that is not 200 or 304. The cursor then stays where it is.
    pub async fn poll(&mut self, output: &mut impl Write) -> Result<Duration, Failure> {
        let path = with(&self.args.url, &format!("after={}", self.after));
        let (head, body) = self.server.get(&path, self.etag.as_deref()).await?;
        let more = match head.status {
            StatusCode::OK => self.take(&body, output)?,
            StatusCode::NOT_MODIFIED => false,
            status => return Err(refused(status, &head.headers, &body)),
        };
        let etag = head.headers.get(header::ETAG);
        self.etag = etag.and_then(|etag| Some(etag.to_str().ok()?.to_owned()));
        if more {
            return Ok(Duration::ZERO);
        }
        Ok(seconds_in(&head.headers, "x-poll-interval").unwrap_or(self.args.interval))
    }

    /// Prints a page, then moves the cursor. In this order a crash repeats a page, and never skips one.
    /// Returns whether there is more.
    fn take(&mut self, body: &[u8], output: &mut impl Write) -> Result<bool, Failure> {
        let page: Page<'_> = serde_json::from_slice(body)
            .map_err(|error| Failure::Final(format!("the answer is not a page: {error}")))?;
        if let Some(gap) = page.gap {
            say(output, &format!("gap {gap}"))?;
        }
        for message in &page.messages {
            say(output, message.get())?;
        }
        self.after = page.next;
        if let Some(path) = &self.args.cursor_file {
            save(path, &self.after).map_err(cursor_file)?;
        }
        Ok(page.more)
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
    async fn get(&mut self, path: &str, etag: Option<&str>) -> Result<(Parts, Bytes), Failure> {
        let lost = match timeout(TIMEOUT, self.try_get(path, etag)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(Failure::Passing(lost, Duration::ZERO))
    }

    async fn try_get(&mut self, path: &str, etag: Option<&str>) -> Result<(Parts, Bytes), Lost> {
        let mut request = Request::get(path).header(header::HOST, &self.authority);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let request = request.body(Empty::new())?;
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

fn load(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(cursor) => Ok(Some(cursor.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the file atomically: a reader finds the old cursor or the new one, even after a power failure.
fn save(path: &Path, cursor: &str) -> io::Result<()> {
    let mut written = path.as_os_str().to_owned();
    written.push(".new");
    let mut file = File::create(&written)?;
    writeln!(file, "{cursor}")?;
    file.sync_all()?;
    fs::rename(written, path)
}

fn cursor_file(error: io::Error) -> Failure {
    Failure::Final(format!("cursor file: {error}"))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Final(reason) | Self::Passing(reason, _)) = self;
        f.write_str(reason)
    }
}

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
