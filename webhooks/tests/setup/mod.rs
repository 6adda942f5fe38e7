//! Senders, receivers and raw endpoints for a test, and their knobs.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    env, fs,
    future::Future,
    io::{self, BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Feed, Retention, ServerConfig};
use harness::{
    Client, PATIENCE, Reply, TestServer, Wire,
    contract::{ALLOWED_ORIGIN, MAX_MESSAGE, READ_TIMEOUT},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use webhooks::{Config, receiver, schedule::Schedule, verify::standard::sign};

/// The secret of the official example.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The time limit of an attempt, where a test waits for that limit.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A sender that may call this machine, and retries twice at once.
pub(crate) fn local() -> Config {
    Config {
        allow_http: true,
        allow_loopback: true,
        schedule: Schedule::new([Duration::ZERO; 2]),
        ..Config::default()
    }
}

/// Small bodies and short times, so that a test reaches the limits.
pub(crate) fn small() -> ServerConfig {
    ServerConfig {
        max_message: MAX_MESSAGE,
        allow_origin: vec![ALLOWED_ORIGIN.parse().expect("an origin")],
        read_timeout: Duration::from_secs_f64(READ_TIMEOUT),
        ..Config::default().server
    }
}

/// A sender with a new feed.
pub(crate) async fn start(config: Config) -> TestServer {
    start_with(Feed::new(Retention::default()), config).await
}

/// A sender with this feed.
pub(crate) async fn start_with(feed: Feed, config: Config) -> TestServer {
    TestServer::start(|listener, shutdown| webhooks::run(listener, feed, config, shutdown)).await
}

/// A folder for one test. Dropping it deletes it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("webhooks-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn inbox(&self) -> PathBuf {
        self.0.join("inbox.sqlite")
    }

    pub(crate) fn feed(&self) -> PathBuf {
        self.0.join("feed.sqlite")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error the folder stays in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A receiver with [`SECRET`], with its inbox in `scratch`.
pub(crate) fn receiving(scratch: &Scratch) -> receiver::Config {
    receiver::Config {
        secret: vec![SECRET.parse().unwrap()],
        inbox: scratch.inbox(),
        server: ServerConfig {
            read_timeout: PATIENCE * 2, // also closes idle connections
            ..small()
        },
        ..receiver::Config::default()
    }
}

/// Bodies must come within [`READ_TIMEOUT`], for a test that waits for it.
pub(crate) fn hasty(config: &mut receiver::Config) {
    config.server.read_timeout = Duration::from_secs_f64(READ_TIMEOUT);
}

/// A receiver with [`SECRET`], and the feed to which it publishes.
pub(crate) async fn receiver() -> (TestServer, Feed) {
    receiver_with(|_| {}).await
}

/// The same with other knobs.
pub(crate) async fn receiver_with(
    adjust: impl FnOnce(&mut receiver::Config),
) -> (TestServer, Feed) {
    let scratch = Scratch::new();
    let mut config = receiving(&scratch);
    adjust(&mut config);
    let feed = Feed::new(Retention::default());
    let published = feed.clone();
    let run = async move |listener, shutdown| {
        let _scratch = scratch;
        receiver::run(listener, published, config, shutdown).await
    };
    (TestServer::start(run).await, feed)
}

/// A program as it is shipped: the receiver with [`SECRET`], or the sender. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pub(crate) addr: SocketAddr,
    log: Log,
}

/// What a program writes to standard error. It is read at once, because a full pipe would stop the program.
struct Log {
    text: Arc<Mutex<String>>,
    ended: oneshot::Receiver<()>,
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

impl Program {
    pub(crate) fn start(scratch: &Scratch, adjust: impl FnOnce(&mut Command)) -> Self {
        Self::start_with(scratch, |receiver| {
            receiver.args(["--secret", SECRET]);
            adjust(receiver);
        })
    }

    /// A receiver without a secret, unless `adjust` gives one.
    pub(crate) fn start_with(scratch: &Scratch, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiver"));
        command.arg("--inbox").arg(scratch.inbox());
        adjust(&mut command);
        Self::launch(command)
    }

    /// The sender with its feed in a file, which keeps everything.
    pub(crate) fn sender(scratch: &Scratch, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_webhooks"));
        command.arg(format!("--feed=file:{}", scratch.feed().display()));
        command.args(["--retain", "1000000", "--allow-http", "--allow-loopback"]);
        adjust(&mut command);
        Self::launch(command)
    }

    pub(crate) fn launch(mut command: Command) -> Self {
        command.args(["--listen", "127.0.0.1:0"]);
        command.env("NO_COLOR", "1"); // loom, which `common` tests with, brings colours into the log
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut program = Self {
            child,
            addr: SocketAddr::from(([0; 4], 0)),
            log: Log::of(stderr),
        };
        let line = first_line(stdout).expect("it says in time where it listens");
        let addr = line.trim().strip_prefix("listening on http://").unwrap();
        program.addr = addr.parse().unwrap();
        program
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr)
    }

    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(self.addr).await
    }

    /// Its resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        self.kib("VmRSS:")
    }

    /// The peak of its resident memory in KiB.
    pub(crate) fn peak(&self) -> u64 {
        self.kib("VmHWM:")
    }

    fn kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    /// Kills it by SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it has written to its log.
    pub(crate) fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Sends SIGTERM and waits.
    pub(crate) async fn stop(self) -> Ended {
        self.stop_by("-TERM").await
    }

    /// Sends this signal and waits.
    pub(crate) async fn stop_by(self, signal: &str) -> Ended {
        let pid = self.child.id().to_string();
        Command::new("kill").args([signal, &pid]).status().unwrap();
        self.ended().await
    }

    /// Waits until it ends by itself. A program that does not is killed when the future is dropped.
    pub(crate) async fn ended(mut self) -> Ended {
        // Its log ends when the program ends, or shortly before.
        let _ = (&mut self.log.ended).await;
        let code = self.child.wait().unwrap().code();
        Ended {
            code,
            log: self.log(),
        }
    }
}

impl Log {
    /// Reads in a thread, because the runtime would wait for its own blocking task forever.
    fn of(mut stderr: impl Read + Send + 'static) -> Self {
        let (text, (end, ended)) = (Arc::new(Mutex::new(String::new())), oneshot::channel());
        let log = text.clone();
        thread::spawn(move || {
            let mut chunk = [0; 4_096];
            while let Ok(read @ 1..) = stderr.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..read]);
                log.lock().unwrap().push_str(&text);
            }
            let _ = end.send(()); // the test may be over
        });
        Self { text, ended }
    }
}

/// The first line, within patience.
fn first_line(stdout: impl Read + Send + 'static) -> Option<String> {
    let (line, read) = mpsc::channel();
    thread::spawn(move || {
        let mut first = String::new();
        let _ = BufReader::new(stdout).read_line(&mut first); // what fails is an empty line
        let _ = line.send(first);
    });
    read.recv_timeout(PATIENCE).ok()
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// The fields that sign this body now, with [`SECRET`].
pub(crate) fn signed(id: &str, body: &str) -> [(&'static str, String); 3] {
    sign(&[SECRET.parse().unwrap()], id, now(), body.as_bytes())
}

/// A genuine event's bytes.
pub(crate) fn request(id: &str) -> String {
    let fields = signed(id, EVENT).map(|(name, value)| format!("{name}: {value}\r\n"));
    format!(
        "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n{EVENT}",
        fields.concat(),
        EVENT.len()
    )
}

/// Sends a genuine event.
pub(crate) async fn send(client: &Client, id: &str) -> Reply {
    send_body(client, id, EVENT).await
}

/// Sends a genuine event with this body.
pub(crate) async fn send_body(client: &Client, id: &str, body: &str) -> Reply {
    let mut request = client.post("/webhook", body.to_owned());
    for (name, value) in signed(id, body) {
        request = request.header(name, &value);
    }
    let request = request.header("content-type", "application/json");
    request.send().await
}

/// An ordinary payload.
pub(crate) const EVENT: &str = r#"{"type":"payment.succeeded","data":{"status":"success"}}"#;

/// All events of the list, page by page.
pub(crate) async fn events(client: &Client) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let after = events
            .last()
            .map_or(0, |event: &Value| event["seq"].as_i64().unwrap());
        let page = client
            .get(&format!("/events?after={after}"))
            .send()
            .await
            .json();
        events.extend(page["events"].as_array().unwrap().clone());
        if page["more"] == false {
            return events;
        }
    }
}

/// The ids of all events, in their order.
pub(crate) async fn listed(client: &Client) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    events(client).await.iter().map(id).collect()
}

/// The list, as soon as all its events are so.
pub(crate) async fn when_all(client: &Client, is_so: impl Fn(&Value) -> bool) -> Vec<Value> {
    soon(async {
        loop {
            let events = events(client).await;
            if events.iter().all(&is_so) {
                return events;
            }
        }
    })
    .await
}

/// Registers `url` for the topic `a`, with [`SECRET`], and returns the endpoint's path.
pub(crate) async fn register(sender: &TestServer, url: &str) -> String {
    register_as(
        sender,
        json!({"url": url, "topics": ["a"], "secret": SECRET}),
    )
    .await
}

pub(crate) async fn register_as(sender: &TestServer, registration: Value) -> String {
    let reply = send_json(sender, "/endpoints", &registration.to_string()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.header("location").unwrap().to_owned()
}

pub(crate) async fn send_json(server: &TestServer, path: &str, body: &str) -> Reply {
    let client = server.client();
    let request = client.post(path, body.to_owned());
    request
        .header("content-type", "application/json")
        .send()
        .await
}

/// Changes an endpoint.
pub(crate) async fn patch(sender: &TestServer, path: &str, change: Value) -> Reply {
    let client = sender.client();
    let request = client.request(hyper::Method::PATCH, path);
    let request = request.header("content-type", "application/json");
    request.body(change.to_string()).send().await
}

/// Publishes to `a` and returns the message's id.
pub(crate) async fn publish(sender: &TestServer, text: &str) -> String {
    let reply = sender.post("/topics/a", text.to_owned()).await;
    assert_eq!(reply.status, 201);
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// The endpoint at `path`, as soon as it is as expected.
pub(crate) async fn endpoint(
    sender: &TestServer,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    let asking = async {
        loop {
            last = sender.get(path).await.json();
            if is_so(&last) {
                break;
            }
        }
    };
    let in_time = timeout(PATIENCE, asking).await.is_ok();
    assert!(in_time, "{path} did not come to be as it should: {last}");
    last
}

/// The output of `future`, which must be ready within a test's patience.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes in time")
}

/// Sends these bytes again and again until the other side cuts the connection.
pub(crate) async fn send_until_cut(wire: &mut Wire, bytes: impl AsRef<[u8]>) {
    soon(async { while wire.try_send(bytes.as_ref()).await.is_ok() {} }).await;
}

/// An endpoint on which the test answers every byte itself.
pub(crate) struct Sink(TcpListener);

/// One request that came to it.
pub(crate) struct Called {
    pub(crate) wire: Wire,
    /// Request line and fields, up to and including the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Sink {
    pub(crate) async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/webhook", self.0.local_addr().unwrap())
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Wire {
        let (stream, _) = soon(self.0.accept()).await.unwrap();
        Wire::over(stream).unwrap()
    }

    /// The next connection and the request on it.
    pub(crate) async fn called(&self) -> Called {
        let mut wire = self.accept().await;
        let head = wire.read_head().await;
        let mut called = Called {
            wire,
            head,
            body: Vec::new(),
        };
        let length = called.field("content-length").parse().unwrap();
        called.body = called.wire.read_exact(length).await;
        called
    }

    /// Answers the next request with these bytes, and returns the message's text.
    pub(crate) async fn answers(&self, answer: &str) -> String {
        let mut called = self.called().await;
        called.wire.send(answer).await;
        called.text()
    }

    /// Answers the next request, whatever its message is.
    pub(crate) async fn answers_anything(&self, answer: &str) {
        self.called().await.wire.send(answer).await;
    }
}

impl Called {
    /// A header field's value.
    pub(crate) fn field(&self, name: &str) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let (_, value) = values
            .next()
            .unwrap_or_else(|| panic!("no {name}: {}", self.head));
        assert!(values.next().is_none(), "{name} is repeated: {}", self.head);
        value
    }

    /// The message's data, which the tests publish as text.
    pub(crate) fn text(&self) -> String {
        let message: Value = serde_json::from_slice(&self.body).unwrap();
        message["data"].as_str().unwrap().to_owned()
    }
}

/// A connection to a server that may be killed at any moment. If it breaks, that is an error and not a panic, so
/// a panic in a test's task always means a failed assertion.
pub(crate) struct Killable(tokio::io::BufReader<TcpStream>);

impl Killable {
    pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        Ok(Self(tokio::io::BufReader::new(stream)))
    }

    /// Sends a request, and returns the status and the body of its answer, which has a length.
    pub(crate) async fn ask(&mut self, request: &str) -> io::Result<(u16, Vec<u8>)> {
        self.0.write_all(request.as_bytes()).await?;
        let status_line = self.line().await?;
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            let line = self.line().await?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().unwrap();
                }
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok((status, body))
    }

    /// A whole line. An incomplete line counts as the end.
    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        match line.ends_with("\r\n") {
            true => Ok(line),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The answers that a sink gives.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
pub(crate) const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
