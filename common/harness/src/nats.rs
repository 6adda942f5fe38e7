//! Real `nats-server` processes: one, or a cluster of three. Each has its own store.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::sleep,
};

use super::{Client, Wait, Wire};

/// How many accounts there are, each with its own streams. Their users are `u0`, `u1` and so on, with password
/// `p`. The user `none` may not have streams.
const ACCOUNTS: usize = 400;

/// A number of servers. Several are one cluster. Dropping them kills them and removes their stores.
#[derive(Debug)]
pub struct NatsServers {
    servers: Vec<Server>,
    folder: PathBuf,
    /// How many accounts are in use.
    accounts: AtomicU32,
}

#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    monitor: SocketAddr,
    config: PathBuf,
    /// The shell that runs the server, and the server's process number.
    process: Option<(Child, String)>,
}

impl NatsServers {
    /// Starts the servers, and waits until they work together.
    ///
    /// # Panics
    ///
    /// If there is no `nats-server`, or they do not start.
    pub async fn start(count: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("nats-{}-{number}", process::id()));
        let ports = free_ports(3 * count);
        let routes = &ports[2 * count..];
        let server = |index: usize| {
            let store = folder.join(index.to_string());
            fs::create_dir_all(&store).expect("there is a folder for temporary files");
            let config = store.join("nats.conf");
            let (addr, monitor) = (ports[index], ports[count + index]);
            let text = config_text(index, addr, monitor, routes, &store) + &accounts();
            fs::write(&config, text).expect("the folder is ours");
            Server {
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, addr)),
                monitor: SocketAddr::from((Ipv4Addr::LOCALHOST, monitor)),
                config,
                process: None,
            }
        };
        let servers = (0..count).map(server).collect();
        let mut started = Self {
            servers,
            folder,
            accounts: AtomicU32::new(0),
        };
        for index in 0..count {
            started.run(index).await;
        }
        for index in 0..count {
            started.healthy(index).await;
        }
        started
    }

    /// The addresses of the servers.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.addr).collect()
    }

    /// The user of an account that is still empty.
    ///
    /// # Panics
    ///
    /// If all accounts are in use.
    pub fn user(&self) -> String {
        let account = self.accounts.fetch_add(1, Ordering::Relaxed);
        assert!(
            (account as usize) < ACCOUNTS,
            "there are {ACCOUNTS} accounts"
        );
        format!("u{account}:p")
    }

    /// The value of `--feed` for this user and these addresses, with a replica on each server.
    pub fn url(&self, user: &str, addrs: &[SocketAddr]) -> String {
        let addrs: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
        format!(
            "nats://{user}@{}?replicas={}",
            addrs.join(","),
            self.servers.len()
        )
    }

    /// The value of `--feed` for an empty account.
    pub fn feed(&self) -> String {
        self.url(&self.user(), &self.addrs())
    }

    /// Starts a killed server again, with its old store.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn run(&mut self, index: usize) {
        let server = &mut self.servers[index];
        // The shell kills the server when its own input is closed. So no server stays, however a test ends.
        let script = "nats-server -c \"$1\" >/dev/null 2>&1 & echo $!; read -r _; kill -9 $!; wait $! 2>/dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&server.config);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("there is a shell");
        let stdout = shell.stdout.take().expect("standard output is piped");
        let mut pid = String::new();
        let read = BufReader::new(stdout).read_line(&mut pid).await;
        read.expect("the shell prints the process number");
        server.process = Some((shell, pid.trim().into()));
    }

    /// Kills a server.
    ///
    /// # Panics
    ///
    /// If waiting for its end fails.
    pub async fn kill(&mut self, index: usize) {
        if let Some((mut shell, _)) = self.servers[index].process.take() {
            drop(shell.stdin.take());
            shell.wait().await.expect("it is ours");
        }
    }

    /// Saves a copy of a killed server's store.
    ///
    /// # Panics
    ///
    /// If it cannot be copied.
    pub fn save(&self, index: usize) {
        copy(
            &self.store(index),
            &self.folder.join(format!("{index}-saved")),
        );
    }

    /// Replaces the store by the saved copy.
    ///
    /// # Panics
    ///
    /// If it cannot be copied.
    pub fn restore(&self, index: usize) {
        fs::remove_dir_all(self.store(index)).expect("it is ours");
        copy(
            &self.folder.join(format!("{index}-saved")),
            &self.store(index),
        );
    }

    fn store(&self, index: usize) -> PathBuf {
        self.folder.join(index.to_string())
    }

    /// The process of a server.
    ///
    /// # Panics
    ///
    /// If it was killed.
    fn pid(&self, index: usize) -> &str {
        let process = self.servers[index].process.as_ref();
        &process.expect("it runs").1
    }

    /// The resident memory of a server in bytes, from `/proc`.
    ///
    /// # Panics
    ///
    /// If it was killed, or there is no `/proc`.
    #[cfg(target_os = "linux")]
    pub fn resident(&self, index: usize) -> u64 {
        super::process::resident(self.pid(index))
    }

    /// Waits until a server works, alone or in its cluster.
    ///
    /// # Panics
    ///
    /// If patience ends.
    pub async fn healthy(&self, index: usize) {
        let monitor = self.servers[index].monitor;
        let healthy = async {
            loop {
                if Wire::try_connect(monitor).await.is_ok()
                    && Client::new(monitor).get("/healthz").send().await.status == 200
                {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let wait = Wait::until(format!("nats-server {index} at {monitor}"));
        wait.patiently(healthy).await;
    }
}

impl Drop for NatsServers {
    fn drop(&mut self) {
        self.servers.clear();
        // If it fails, the files stay in the temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The configuration of one server, without the accounts.
fn config_text(index: usize, addr: u16, monitor: u16, routes: &[u16], store: &Path) -> String {
    let store = store.display().to_string();
    let text = format!(
        "server_name: n{index}\nlisten: \"127.0.0.1:{addr}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
         jetstream {{ store_dir: {store:?}, max_mem: 256M, max_file: 4T }}\n"
    );
    if routes.len() == 1 {
        return text;
    }
    let own = routes[index];
    let urls = routes.iter().map(|port| format!("nats://127.0.0.1:{port}"));
    let urls: Vec<String> = urls.collect();
    // `no_advertise`: clients connect only to the addresses that the test gives them, perhaps of a proxy.
    let cluster = format!(
        "cluster {{ name: c, listen: \"127.0.0.1:{own}\", routes: {urls:?}, no_advertise: true }}\n"
    );
    text + &cluster
}

fn accounts() -> String {
    let account = |number| {
        format!(
            " A{number} {{ jetstream: enabled, users: [{{ user: u{number}, password: p }}] }}\n"
        )
    };
    let accounts: String = (0..ACCOUNTS).map(account).collect();
    let none = "NONE { users: [{ user: none, password: p }] }";
    format!("system_account: SYS\naccounts {{\n SYS {{}}\n {none}\n{accounts}}}\n")
}

fn copy(from: &Path, to: &Path) {
    let mut copy = process::Command::new("cp");
    let copied = copy.arg("-r").args([from, to]).status();
    assert!(
        copied.is_ok_and(|copied| copied.success()),
        "{}",
        from.display()
    );
}

/// Different ports that are free now. The system does not choose ports of this range by itself, so a killed server
/// can come back to its port.
///
/// # Panics
///
/// Never.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    while listeners.len() < count {
        let port = rand::random_range(10_000..32_000);
        listeners.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    }
    let addrs = listeners.iter().map(TcpListener::local_addr);
    addrs
        .map(|addr| addr.expect("it is bound").port())
        .collect()
}
