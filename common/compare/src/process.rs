//! A server in its own process, and what that process uses.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::sleep,
};

use crate::{Knobs, Technique};

/// A running `compare serve NAME`. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    technique: Technique,
    knobs: Knobs,
    addr: SocketAddr,
    child: Child,
}

impl Process {
    /// Runs `program`, which is `compare`, on a free port.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(program: &Path, technique: Technique, knobs: Knobs) -> io::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_on(program.to_owned(), anywhere, technique, knobs).await
    }

    async fn start_on(
        program: PathBuf,
        addr: SocketAddr,
        technique: Technique,
        knobs: Knobs,
    ) -> io::Result<Self> {
        let mut command = Command::new(&program);
        command.args(["serve", &technique.to_string()]);
        command.args(["--listen", &addr.to_string()]);
        command.args(["--retain", &knobs.retain.to_string()]);
        command.args(["--takeover", &knobs.takeover.to_string()]);
        if let Some(retry) = knobs.retry {
            command.args(["--retry", &retry.as_secs_f64().to_string()]);
        }
        // However this process ends, the pipe ends with it, and then the server drains.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        // The first line says which port the system chose.
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let listening = line.trim_end().strip_prefix("listening on http://");
        let Some(addr) = listening.and_then(|addr| addr.parse().ok()) else {
            return Err(io::Error::other(format!(
                "the server of {technique} does not listen: {line:?}"
            )));
        };
        Ok(Self {
            program,
            technique,
            knobs,
            addr,
            child,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets it drain, and starts it again at its address after `away`. Its feed is in memory, so a new
    /// epoch begins.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn restart(&mut self, away: Duration) -> io::Result<()> {
        drop(self.child.stdin.take());
        self.replace(away).await
    }

    /// Kills it as a crash would, and starts it again at its address.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.start_kill()?;
        self.replace(Duration::ZERO).await
    }

    /// Waits for its end, and starts another one at the same address, so that clients find it.
    async fn replace(&mut self, away: Duration) -> io::Result<()> {
        self.child.wait().await?;
        sleep(away).await;
        let (program, knobs) = (self.program.clone(), self.knobs.clone());
        *self = Self::start_on(program, self.addr, self.technique, knobs).await?;
        Ok(())
    }

    /// Its resident memory in bytes. `None` where there is no `/proc`.
    pub fn resident(&self) -> Option<u64> {
        bytes_in(&self.proc("status")?, "VmRSS:")
    }

    /// The processor time of its threads so far. `None` where there is no `/proc`.
    pub fn cpu_time(&self) -> Option<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(self.proc("task")?).ok()?.flatten() {
            // In nanoseconds; `stat` has only hundredths of a second.
            let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            nanos += schedstat.split(' ').next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(nanos))
    }

    /// Its open files and sockets. `None` where there is no `/proc`.
    pub fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(self.proc("fd")?).ok()?.count())
    }

    fn proc(&self, file: &str) -> Option<PathBuf> {
        Some(format!("/proc/{}/{file}", self.child.id()?).into())
    }
}

/// The value of a line such as `VmRSS:  1234 kB`, in bytes.
pub(crate) fn bytes_in(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}
