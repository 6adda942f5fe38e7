//! The process: its listener, its signals, its descriptors, its exit code.

use std::{io, net::SocketAddr, process::ExitCode};

use tokio::net::TcpListener;
use tracing::{info, warn};

use super::Drained;

/// Binds `address` and prints the first line of standard output: `listening on http://ADDR`. For port
/// 0 it prints the port that the system chose.
///
/// # Errors
/// If the address cannot be bound. The error names it.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            println!("listening on http://{}", listener.local_addr()?);
            Ok(listener)
        }
        Err(error) => {
            let text = format!("cannot listen on {address}: {error}");
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// Resolves at the first SIGTERM or SIGINT, or Ctrl-C on systems without them. After that, a second
/// signal exits the process at once. Signals are caught from the call on, so call this before the
/// process announces itself.
pub fn shutdown_signal() -> impl Future<Output = ()> {
    let first = signal();
    async {
        first.await;
        info!("draining; a second signal exits at once");
        let second = signal();
        tokio::spawn(async {
            second.await;
            std::process::exit(1);
        });
    }
}

#[cfg(unix)]
fn signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Registered here and not in the future, so that no signal is missed before its first poll.
    let listen = |kind| signal(kind).expect("signal handlers can be installed inside a runtime");
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate()),
        listen(SignalKind::interrupt()),
    );
    async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
async fn signal() {
    tokio::signal::ctrl_c()
        .await
        .expect("Ctrl-C can be listened for inside a runtime");
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

/// The exit code for the end of `run`. Prints an error in the same form as clap.
pub fn exit_code(ended: io::Result<Drained>) -> ExitCode {
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
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
