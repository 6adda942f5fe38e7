//! A cluster: three servers share one stream of three NATS servers, behind an nginx without affinity. A
//! thousand clients reconnect with their cursors while each part is killed in turn. It needs
//! `nats-server` and `nginx`:
//! `cargo test --release -p sse --features nats --test cluster`.
#![cfg(unix)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{self, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::Cursor;
use harness::{Client, Fault, FaultProxy, NatsServers, Process, free_ports};
use sse::parse::Parser;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sse");
const CLIENTS: usize = 1_000;
const PUBLISHERS: usize = 3;
/// The time between two messages of one publisher.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the traffic is ordinary before and after each fault.
const CALM: Duration = Duration::from_secs(2);
/// How long every client may take to get everything.
const PATIENCE: Duration = Duration::from_secs(60);
const UNPOISONED: &str = "nothing panics under this lock";

#[tokio::test(flavor = "multi_thread")]
async fn the_login_may_be_in_a_variable() {
    let nats = NatsServers::start(1).await;
    let feed = format!("nats://{}", nats.addrs()[0]);
    for (login, starts) in [(nats.user(), true), ("u0:wrong".to_owned(), false)] {
        let mut command = Command::new(PROGRAM);
        command.args(["--listen", "127.0.0.1:0", "--feed", &feed]);
        command.env("NATS_LOGIN", login).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap();
        assert_eq!(line.unwrap().is_some(), starts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_or_cut_off_every_client_gets_everything_once() {
    let mut cluster = Cluster::start().await;
    let nginx = Nginx::start(&cluster.ports).await;
    let (crowd, load) = (Arc::new(Crowd::default()), Arc::new(Load::default()));
    let mut listening = JoinSet::new();
    for number in 0..CLIENTS {
        listening.spawn(listen(crowd.clone(), number, nginx.addr));
    }
    crowd.all_are_open().await;
    let mut publishing = JoinSet::new();
    for number in 0..PUBLISHERS {
        publishing.spawn(publish(load.clone(), number, nginx.addr));
    }
    cluster.suffer().await;
    load.ended.store(true, Relaxed);
    let ended = timeout(PATIENCE, publishing.join_all()).await;
    ended.expect("each last message is acknowledged");
    let published = load.published.lock().expect(UNPOISONED).clone();
    crowd.all_have(&published).await;
    println!(
        "{CLIENTS} clients received {} messages each, none twice; {} connections, {} refusals of publishes, {} of their keys known",
        published.len(),
        crowd.connections.load(Relaxed),
        load.refused.load(Relaxed),
        load.known.load(Relaxed),
    );
}

/// What is published, by its cursor's number.
#[derive(Default)]
struct Load {
    published: Mutex<BTreeMap<u64, String>>,
    refused: AtomicUsize,
    /// Published by a request whose answer did not come.
    known: AtomicUsize,
    ended: AtomicBool,
}

impl Load {
    fn acknowledged(&self, id: Cursor, text: String) {
        let mut published = self.published.lock().expect(UNPOISONED);
        let other = published.insert(id.seq, text);
        assert_eq!(other, None, "{id} was given out twice");
    }
}

/// Publishes one message after the other, each until it is acknowledged.
async fn publish(load: Arc<Load>, publisher: usize, nginx: SocketAddr) {
    for number in 0.. {
        if load.ended.load(Relaxed) {
            return;
        }
        let text = format!("{publisher}-{number}");
        let (id, known) = loop {
            match post(nginx, &text).await {
                Ok(published) => break published,
                Err(_) => load.refused.fetch_add(1, Relaxed),
            };
            sleep(PAUSE).await;
        };
        load.known.fetch_add(usize::from(known), Relaxed);
        load.acknowledged(id, text);
        sleep(PAUSE).await;
    }
}

async fn post(nginx: SocketAddr, text: &str) -> io::Result<(Cursor, bool)> {
    let client = Client::new(nginx);
    let post = client.post("/topics/news", text.to_owned());
    let reply = timeout(PATIENCE, post.header("idempotency-key", text).try_send());
    let reply = reply.await.map_err(|_| ErrorKind::TimedOut)??;
    if reply.status != 201 {
        return Err(io::Error::other(reply.text()));
    }
    let json = reply.json();
    let id = json["id"].as_str().and_then(|id| id.parse().ok());
    Ok((id.expect("an id is a cursor"), json["duplicate"] == true))
}

/// What the clients have heard.
#[derive(Default)]
struct Crowd {
    heard: Mutex<BTreeMap<usize, Vec<(u64, String)>>>,
    open: AtomicUsize,
    connections: AtomicUsize,
}

impl Crowd {
    async fn all_are_open(&self) {
        let open = async {
            while self.open.load(Relaxed) < CLIENTS {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, open).await.expect("every stream opens");
    }

    /// Waits until each has as many as were published, and compares.
    async fn all_have(&self, published: &BTreeMap<u64, String>) {
        let all = async {
            while self.slowest() < published.len() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let came = timeout(PATIENCE, all).await;
        let published: Vec<_> = published.clone().into_iter().collect();
        for (number, heard) in &*self.heard.lock().expect(UNPOISONED) {
            let wrong = heard
                .iter()
                .zip(&published)
                .find(|(one, other)| one != other);
            assert_eq!(wrong, None, "client {number}");
            assert_eq!(heard.len(), published.len(), "client {number}");
        }
        came.expect("every client has heard something");
    }

    fn slowest(&self) -> usize {
        let heard = self.heard.lock().expect(UNPOISONED);
        let least = heard.values().map(Vec::len).min();
        least.filter(|_| heard.len() == CLIENTS).unwrap_or(0)
    }
}

/// A client that reads, and comes back with its cursor until the test ends.
async fn listen(crowd: Arc<Crowd>, number: usize, nginx: SocketAddr) {
    let mut position = String::new();
    loop {
        // It does not matter why it ended.
        let _ = stream(&crowd, number, nginx, &mut position).await;
        sleep(Duration::from_millis(100 + number as u64 % 200)).await;
    }
}

async fn stream(
    crowd: &Crowd,
    number: usize,
    nginx: SocketAddr,
    position: &mut String,
) -> io::Result<()> {
    let mut socket = TcpStream::connect(nginx).await?;
    let resuming = match position.as_str() {
        "" => String::new(),
        id => format!("Last-Event-ID: {id}\r\n"),
    };
    // HTTP/1.0, so that the body has no chunks.
    let request =
        format!("GET /topics/news?after=earliest HTTP/1.0\r\nHost: localhost\r\n{resuming}\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 16 * 1024];
    let mut head = Vec::new();
    let end = loop {
        let read = socket.read(&mut buffer).await?;
        head.extend_from_slice(&buffer[..read]);
        let end = head.windows(4).position(|window| window == b"\r\n\r\n");
        match end {
            Some(end) => break end + 4,
            None if read == 0 => return Err(ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    };
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other("the stream is refused"));
    }
    crowd.connections.fetch_add(1, Relaxed);
    if position.is_empty() {
        crowd.open.fetch_add(1, Relaxed);
    }
    let mut parser = Parser::resuming(position);
    let mut bytes = head.split_off(end);
    loop {
        for event in parser.feed(&bytes) {
            assert_eq!(event.event, "message", "client {number}: {}", event.data);
            let message: serde_json::Value = serde_json::from_str(&event.data)?;
            let id: Cursor = event.id.parse().expect("an id is a cursor");
            let text = message["data"].as_str().expect("it is text").to_owned();
            let mut heard = crowd.heard.lock().expect(UNPOISONED);
            heard.entry(number).or_default().push((id.seq, text));
        }
        parser.last_event_id().clone_into(position);
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        bytes = buffer[..read].to_vec();
    }
}

/// The NATS servers, and the servers that show their stream. The last one reaches NATS through proxies.
struct Cluster {
    nats: NatsServers,
    proxies: Vec<FaultProxy>,
    urls: Vec<String>,
    ports: Vec<u16>,
    servers: Vec<Process>,
}

impl Cluster {
    async fn start() -> Self {
        let nats = NatsServers::start(3).await;
        let mut proxies = Vec::new();
        for addr in nats.addrs() {
            proxies.push(FaultProxy::start(addr, Fault::Pass).await);
        }
        let user = nats.user();
        let far: Vec<SocketAddr> = proxies.iter().map(FaultProxy::addr).collect();
        let near = nats.url(&user, &nats.addrs());
        let urls = vec![near.clone(), near, nats.url(&user, &far)];
        let mut cluster = Self {
            nats,
            proxies,
            urls,
            ports: free_ports(3),
            servers: Vec::new(),
        };
        for index in 0..3 {
            let server = cluster.serve(index).await;
            cluster.servers.push(server);
        }
        cluster
    }

    async fn serve(&self, index: usize) -> Process {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[index]));
        let args = [
            "--feed",
            &self.urls[index],
            "--retain",
            "100000",
            "--drain",
            "2",
            "--retry",
            "0.2",
        ];
        Process::start_at(addr, PROGRAM, &args).await
    }

    /// One fault after the other.
    async fn suffer(&mut self) {
        for index in 0..3 {
            self.blow(&format!("server {index} restarts")).await;
            self.servers[index].signal("TERM");
            self.replace(index).await;
        }
        self.blow("server 0 is killed").await;
        self.servers[0].signal("KILL");
        self.replace(0).await;
        for index in 0..3 {
            self.blow(&format!("NATS server {index} is killed")).await;
            self.nats.kill(index).await;
            sleep(CALM).await;
            self.nats.run(index).await;
            self.nats.healthy(index).await;
        }
        self.blow("server 2 is cut off from NATS").await;
        self.proxies
            .iter()
            .for_each(|proxy| proxy.set(Fault::Blackhole));
        sleep(2 * CALM).await;
        self.proxies.iter().for_each(|proxy| proxy.set(Fault::Pass));
        sleep(CALM).await;
    }

    async fn blow(&self, what: &str) {
        sleep(CALM).await;
        println!("{what}");
    }

    async fn replace(&mut self, index: usize) {
        let old = self.servers.remove(index);
        old.exit_code().await;
        let new = self.serve(index).await;
        self.servers.insert(index, new);
    }
}

/// nginx with an ordinary configuration, except that it retries a server that refused at once.
struct Nginx {
    addr: SocketAddr,
    folder: PathBuf,
    _process: Child,
}

impl Nginx {
    async fn start(ports: &[u16]) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(1)[0]));
        let folder = env::temp_dir().join(format!("nginx-{}", process::id()));
        fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        let servers: String = ports
            .iter()
            .map(|port| format!("server 127.0.0.1:{port} max_fails=0; "))
            .collect();
        let config = format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;
            worker_rlimit_nofile 8192; events {{ worker_connections 8000; }}
            http {{
                access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
                fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
                upstream members {{ {servers} }}
                server {{
                    listen {addr};
                    location / {{ proxy_pass http://members; proxy_set_header Host localhost; }}
                }}
            }}",
            folder.display()
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, config).expect("the folder is ours");
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&file)
            .kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("nginx is installed");
        let (up, started) = (Client::new(addr), Instant::now());
        while up.get("/healthz").try_send().await.is_err() {
            assert!(started.elapsed() < PATIENCE, "nginx does not start");
            sleep(Duration::from_millis(20)).await;
        }
        Self {
            addr,
            folder,
            _process: process,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // If it fails, files are left in the temporary folder only.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
