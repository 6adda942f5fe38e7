//! A process of the scene: this program in one of its roles. It may be killed at any moment.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::{
    sync::{broadcast, watch},
    task::spawn_blocking,
};

/// How many lines are buffered for a slow reader.
const LINES: usize = 64;

/// Prints what happened, with the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeline(pub(crate) Instant);

impl Timeline {
    pub(crate) fn say(self, who: &str, what: &str) {
        println!(
            "{:7.3} s  {who:<18}  {what}",
            self.0.elapsed().as_secs_f64()
        );
    }
}

/// A program and the lines that it prints.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    args: Vec<OsString>,
    told: Arc<Told>,
    life: Mutex<Life>,
}

struct Told {
    name: &'static str,
    timeline: Timeline,
    /// Its address, once it listens.
    address: watch::Sender<Option<SocketAddr>>,
    /// Its other lines.
    lines: broadcast::Sender<String>,
}

/// A process, and the number of processes before it.
struct Life {
    child: Child,
    reading: Option<JoinHandle<()>>,
    kills: usize,
}

impl Program {
    pub(crate) fn start(
        name: &'static str,
        args: impl IntoIterator<Item = OsString>,
        timeline: Timeline,
    ) -> io::Result<Arc<Self>> {
        let args: Vec<_> = args.into_iter().collect();
        let told = Arc::new(Told {
            name,
            timeline,
            address: watch::Sender::new(None),
            lines: broadcast::Sender::new(LINES),
        });
        let (child, reading) = launch(&args, &told)?;
        let life = Mutex::new(Life {
            child,
            reading: Some(reading),
            kills: 0,
        });
        Ok(Arc::new(Self {
            name,
            args,
            told,
            life,
        }))
    }

    /// Kills the process by SIGKILL, and starts another one.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let mut life = self.life();
        life.child.kill()?;
        life.child.wait()?;
        life.kills += 1;
        // It ends with the pipe, so no line of the old process comes after a line of the new one.
        let reading = life.reading.take();
        let read = reading.map_or(Ok(()), JoinHandle::join);
        read.map_err(|_| io::Error::other("a reader panicked"))?;
        self.told.address.send_replace(None);
        self.told
            .timeline
            .say(self.name, "KILLED, and started again");
        let (child, reading) = launch(&self.args, &self.told)?;
        life.child = child;
        life.reading = Some(reading);
        Ok(())
    }

    pub(crate) fn kills(&self) -> usize {
        self.life().kills
    }

    /// Its address, as soon as it listens.
    pub(crate) async fn address(&self) -> SocketAddr {
        let mut address = self.told.address.subscribe();
        let listening = address.wait_for(Option::is_some).await;
        listening.expect("it is ours").expect("it is some")
    }

    /// The lines that it prints from now on.
    pub(crate) fn lines(&self) -> broadcast::Receiver<String> {
        self.told.lines.subscribe()
    }

    /// Tells it to end, and waits until it has.
    pub(crate) async fn dismiss(self: Arc<Self>) -> io::Result<()> {
        let name = self.name;
        let ended = spawn_blocking(move || {
            let child = &mut self.life().child;
            drop(child.stdin.take());
            child.wait()
        });
        let status = ended.await.map_err(io::Error::other)??;
        if !status.success() {
            return Err(io::Error::other(format!("the {name} ended with {status}")));
        }
        Ok(())
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().expect("nothing panics under this lock")
    }
}

fn launch(args: &[OsString], told: &Arc<Told>) -> io::Result<(Child, JoinHandle<()>)> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().expect("it is piped");
    let told = told.clone();
    let reading = thread::spawn(move || told.read(stdout));
    Ok((child, reading))
}

impl Told {
    fn read(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            match line.strip_prefix("listening on http://") {
                Some(address) => drop(self.address.send_replace(address.parse().ok())),
                None => {
                    self.timeline.say(self.name, &line);
                    let _ = self.lines.send(line); // fails if nobody listens
                }
            }
        }
    }
}
