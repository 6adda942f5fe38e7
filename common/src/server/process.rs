//! The process: its signals, its descriptors, its exit code.

use std::{
    io,
    process::{ExitCode, exit},
    thread,
};

#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tokio::{runtime::Builder, sync::oneshot};
use tracing::{info, warn};

use super::{Drained, log};

/// Resolves at the first SIGTERM or SIGINT, or Ctrl-C on systems without them. After that, a second
/// signal exits the process at once. Signals are caught from the call on, so call this before the
/// process announces itself.
///
/// A thread with its own runtime waits for the signals. So a second signal exits even if every thread of the
/// server's runtime is stuck.
///
/// # Panics
/// If the system has no thread or descriptor for it.
pub fn shutdown_signal() -> impl Future<Output = ()> {
    let built = Builder::new_current_thread().enable_io().build();
    let runtime = built.expect("a new process has descriptors left");
    let mut next_signal = {
        let _entered = runtime.enter(); // Signals belong to the runtime that is entered.
        signals()
    };
    let (first, shutdown) = oneshot::channel();
    let wait = async move || {
        next_signal().await;
        // It fails only if the server no longer waits for it.
        let _ = first.send(());
        next_signal().await;
        exit(1);
    };
    let thread = thread::Builder::new().name("signals".into());
    let spawned = thread.spawn(move || runtime.block_on(wait()));
    spawned.expect("a new process has threads left");
    async {
        // The sender is not dropped before it has sent.
        let _ = shutdown.await;
        info!("draining; a second signal exits at once");
    }
}

/// Each call of the result waits for one signal. They are caught from now on, and not from the first wait.
#[cfg(unix)]
fn signals() -> impl AsyncFnMut() + Send {
    const INSTALLED: &str = "a signal handler can be installed";
    let mut terminate = signal(SignalKind::terminate()).expect(INSTALLED);
    let mut interrupt = signal(SignalKind::interrupt()).expect(INSTALLED);
    async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
fn signals() -> impl AsyncFnMut() + Send {
    async || {
        let pressed = tokio::signal::ctrl_c().await;
        pressed.expect("Ctrl-C can be listened for");
    }
}

/// Descriptors that are not connections: the listener, the runtime's, logs, a database.
const OWN_DESCRIPTORS: u64 = 32;

/// Raises the soft descriptor limit to the hard one. Returns how many of the wanted connections can
/// then have a descriptor, and logs a warning if that is fewer.
pub fn fit_descriptors(wanted: usize) -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let fitting = fit(wanted, limit);
    if fitting < wanted {
        warn!("the descriptor limit is {limit}: at most {fitting} connections instead of {wanted}");
    }
    fitting
}

fn fit(wanted: usize, limit: u64) -> usize {
    let available = limit.saturating_sub(OWN_DESCRIPTORS).max(1);
    wanted.min(usize::try_from(available).unwrap_or(usize::MAX))
}

/// The exit code for the end of `run`. Prints an error after the log's last line, in the same form as clap.
pub fn exit_code(ended: io::Result<Drained>) -> ExitCode {
    match ended {
        Ok(_) => {
            log::flush();
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::last_line(format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors_that_are_left() {
        assert_eq!(fit(10_256, 20_000), 10_256);
        assert_eq!(fit(10_256, 10_288), 10_256);
        assert_eq!(fit(10_256, 10_287), 10_255);
        assert_eq!(fit(10_256, 256), 224);
        assert_eq!(fit(10_256, 0), 1);
    }
}
