//! Real `nats-server` processes: one, or a cluster of three, each with a store of its own.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{self, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::sleep,
};

use super::{Client, Wait, Wire};

/// Accounts that each has its own streams: user `u0` with password `p`, and so on.
const ACCOUNTS: usize = 400;

/// So many servers, which are one cluster if there are several. Dropped, they are killed and their
/// stores removed.
#[derive(Debug)]
pub struct NatsServers {
    servers: Vec<Server>,
    folder: PathBuf,
    /// Accounts that were given out.
    accounts: AtomicU32,
}

#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    monitor: SocketAddr,
    config: PathBuf,
    process: Option<Child>,
}

impl NatsServers {
    /// Starts them, and waits until they work together.
    ///
    /// # Panics
    ///
    /// If there is no `nats-server`, or they do not start.
    pub async fn start(count: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("nats-{}-{number}", process::id()));
        let ports = free_ports(3 * count);
        let routes: Vec<String> = ports[2 * count..]
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        let mut servers = Vec::new();
        for index in 0..count {
            let store = folder.join(index.to_string());
            fs::create_dir_all(&store).expect("there is a folder for temporary files");
            let config = store.join("nats.conf");
            let (addr, monitor, route) =
                (ports[index], ports[count + index], ports[2 * count + index]);
            let mut text = format!(
                "server_name: n{index}\nlisten: \"127.0.0.1:{addr}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
                 jetstream {{ store_dir: {:?}, max_mem: 256M, max_file: 16G }}\n",
                store.display().to_string()
            );
            if count > 1 {
                text += &format!(
                    "cluster {{ name: c, listen: \"127.0.0.1:{route}\", routes: {routes:?} }}\n"
                );
            }
            text +=
                "system_account: SYS\naccounts {\n SYS { users: [{ user: sys, password: p }] }\n";
            for account in 0..ACCOUNTS {
                text += &format!(
                    " A{account} {{ jetstream: enabled, users: [{{ user: u{account}, password: p }}] }}\n"
                );
            }
            fs::write(&config, text + "}\n").expect("the folder is ours");
            let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            servers.push(Server {
                addr: local(addr),
                monitor: local(monitor),
                config,
                process: None,
            });
        }
        let mut started = Self {
            servers,
            folder,
            accounts: AtomicU32::new(0),
        };
        for index in 0..count {
            started.run(index);
        }
        for index in 0..count {
            started.healthy(index).await;
        }
        started
    }

    /// Where they are.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.addr).collect()
    }

    /// The user of an account that has nothing in it.
    ///
    /// # Panics
    ///
    /// If all have been given out.
    pub fn user(&self) -> String {
        let account = self.accounts.fetch_add(1, Ordering::Relaxed);
        assert!(
            (account as usize) < ACCOUNTS,
            "there are {ACCOUNTS} accounts"
        );
        format!("u{account}:p")
    }

    /// The value of `--feed` for this user by way of these addresses, with a replica on each server.
    pub fn url(&self, user: &str, addrs: &[SocketAddr]) -> String {
        let addrs: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
        format!(
            "nats://{user}@{}?replicas={}",
            addrs.join(","),
            self.servers.len()
        )
    }

    /// A feed of its own.
    pub fn feed(&self) -> String {
        self.url(&self.user(), &self.addrs())
    }

    /// Starts a server that was killed, with the store that it had.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn run(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&server.config).kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        server.process = Some(command.spawn().expect("nats-server is installed"));
    }

    /// Ends a server in the middle of whatever it does.
    pub async fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.servers[index].process.take() {
            // It may have ended by itself.
            let _ = process.kill().await;
        }
    }

    /// Sends a server a signal: `STOP`, `CONT`.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn signal(&self, index: usize, name: &str) {
        let process = self.servers[index].process.as_ref().expect("it runs");
        let pid = process.id().expect("it was not waited for");
        let mut kill = process::Command::new("kill");
        let sent = kill.args([format!("-{name}"), pid.to_string()]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "kill -{name} {pid}");
    }

    /// The memory that a server has resident, in bytes.
    ///
    /// # Panics
    ///
    /// If it does not run, or there is no `/proc`.
    #[cfg(target_os = "linux")]
    pub fn resident(&self, index: usize) -> u64 {
        let process = self.servers[index].process.as_ref().expect("it runs");
        let pid = process.id().expect("it was not waited for");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        1_024 * kib.expect("a process has a VmRSS in kB")
    }

    /// Waits until a server works: alone, or with the others.
    ///
    /// # Panics
    ///
    /// If it does not come to it.
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
        // What stays is in the temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Ports that nobody listens on now, each another.
fn free_ports(count: usize) -> Vec<u16> {
    let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is to be had");
    let listeners: Vec<TcpListener> = (0..count).map(listen).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    listeners.iter().map(port).collect()
}
