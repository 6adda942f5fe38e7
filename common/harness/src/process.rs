//! A built server: a process with a first line, signals and an exit code.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout},
    task::yield_now,
    time::sleep,
};

use super::{Client, Wait, Wire, free_ports};

/// A built program that serves on a free port. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    /// Runs `program` (in a member's tests `env!("CARGO_BIN_EXE_…")`) and reads its first line.
    ///
    /// # Panics
    ///
    /// If it does not start, or if its first line is not `listening on http://ADDR`.
    pub async fn start(program: &str, args: &[&str]) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(anywhere, program, args).await
    }

    /// The same at a free address, such as the one that it had before.
    ///
    /// # Panics
    ///
    /// As [`Process::start`].
    pub async fn start_at(addr: SocketAddr, program: &str, args: &[&str]) -> Self {
        Self::start_logging(addr, program, args, Stdio::null()).await
    }

    /// The same with its log in `log`.
    ///
    /// # Panics
    ///
    /// As [`Process::start`].
    pub async fn start_logging(
        addr: SocketAddr,
        program: &str,
        args: &[&str],
        log: impl Into<Stdio>,
    ) -> Self {
        Self::start_saying(addr, program, args, log).await.0
    }

    /// Like [`Process::start`], for a program that says a second line, which is returned.
    pub(crate) async fn start_with_two_lines(program: &str, args: &[&str]) -> (Self, String) {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let started = Self::start_saying(anywhere, program, args, Stdio::null());
        let (process, mut stdout) = started.await;
        let line = line(&mut stdout, program).await;
        (process, line)
    }

    async fn start_saying(
        addr: SocketAddr,
        program: &str,
        args: &[&str],
        log: impl Into<Stdio>,
    ) -> (Self, BufReader<ChildStdout>) {
        let mut child = spawn(addr, program, args, Stdio::piped(), log.into());
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let line = line(&mut stdout, program).await;
        let authority = line.trim_end().strip_prefix("listening on http://");
        let addr = authority.and_then(|authority| authority.parse().ok());
        let process = Self {
            child,
            addr: addr.unwrap_or_else(|| panic!("the first line of {program} is {line:?}")),
        };
        (process, stdout)
    }

    /// Runs `program` with a closed standard output, so its first line has no reader.
    ///
    /// # Panics
    ///
    /// If it does not listen before patience ends.
    pub async fn start_unheard(program: &str, args: &[&str]) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(1)[0]));
        let (closed, stdout) = io::pipe().expect("a pipe");
        drop(closed);
        let child = spawn(addr, program, args, stdout.into(), Stdio::null());
        let listens = async {
            while Wire::try_connect(addr).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        Wait::until(format!("{program} to listen on {addr}"))
            .patiently(listens)
            .await;
        Self { child, addr }
    }

    /// Runs `program` at an address that is in use.
    pub fn start_in_vain(
        addr: SocketAddr,
        program: &str,
        args: &[&str],
        log: impl Into<Stdio>,
    ) -> Self {
        let child = spawn(addr, program, args, Stdio::null(), log.into());
        Self { child, addr }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A client with a connection for each request.
    pub fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// Its resident memory in bytes, from `/proc`.
    ///
    /// # Panics
    ///
    /// If it has exited, or there is no `/proc`.
    #[cfg(target_os = "linux")]
    pub fn resident(&self) -> u64 {
        resident(&self.pid())
    }

    /// The processor time that it has used so far, in steps of 10 ms, from `/proc`.
    ///
    /// # Panics
    ///
    /// If it has exited, or there is no `/proc`.
    #[cfg(target_os = "linux")]
    pub fn cpu_time(&self) -> Duration {
        let stat = proc(&self.pid(), "stat");
        // The second field is a name in parentheses; user and system time are the 14th and 15th.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times
            .map(|ticks| ticks.parse::<u64>().expect("ticks are a number"))
            .sum();
        Duration::from_millis(10 * ticks) // USER_HZ is 100
    }

    #[cfg(target_os = "linux")]
    fn pid(&self) -> String {
        self.child.id().expect("it was not waited for").to_string()
    }

    /// A connection on which the server has read `request`, which may be incomplete. It is sent behind another
    /// request, and the answer to that one shows that the server has read both.
    ///
    /// # Panics
    ///
    /// If that answer does not come.
    pub async fn in_flight(&self, request: &str) -> Wire {
        let mut wire = Wire::connect(self.addr).await;
        let before = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        wire.send([before, request].concat()).await;
        assert_eq!(wire.read_response().await.status, 200);
        wire
    }

    /// Sends a signal: `TERM` or `INT`.
    ///
    /// # Panics
    ///
    /// If it has exited already.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it was not waited for");
        let mut kill = Command::new("kill");
        kill.args([format!("-{name}"), pid.to_string()]);
        let sent = kill
            .status()
            .unwrap_or_else(|error| panic!("kill: {error}"));
        assert!(sent.success(), "kill -{name} {pid}: {sent}");
    }

    /// Waits until it accepts no more connections. Then the first signal has arrived, and the next signal is the
    /// second one.
    ///
    /// # Panics
    ///
    /// If it still accepts when patience ends.
    pub async fn refuses(&self) {
        let refused = async {
            while Wire::try_connect(self.addr).await.is_ok() {
                yield_now().await;
            }
        };
        Wait::until(format!("{} to be closed", self.addr))
            .patiently(refused)
            .await;
    }

    /// Waits until it exits, and returns its exit code. `None` if a signal ended it.
    ///
    /// # Panics
    ///
    /// If it does not exit.
    pub async fn exit_code(mut self) -> Option<i32> {
        let wait = Wait::until(format!("process {:?} to exit", self.child.id()));
        let exited = wait.patiently(self.child.wait()).await;
        exited
            .unwrap_or_else(|error| panic!("waiting for a process: {error}"))
            .code()
    }
}

/// The next line of standard output.
async fn line(stdout: &mut BufReader<ChildStdout>, program: &str) -> String {
    let mut line = String::new();
    let read = Wait::until(format!("a line of {program}"))
        .patiently(stdout.read_line(&mut line))
        .await;
    read.unwrap_or_else(|error| panic!("reading a line of {program}: {error}"));
    line
}

fn spawn(addr: SocketAddr, program: &str, args: &[&str], out: Stdio, log: Stdio) -> Child {
    let mut command = Command::new(program);
    command.args(["--listen", &addr.to_string()]).args(args);
    command.stdout(out).stderr(log);
    tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("starting {program}: {error}"))
}

#[cfg(target_os = "linux")]
pub(super) fn resident(pid: &str) -> u64 {
    let status = proc(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    1_024 * kib.expect("a process has a VmRSS in kB")
}

#[cfg(target_os = "linux")]
fn proc(pid: &str, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
