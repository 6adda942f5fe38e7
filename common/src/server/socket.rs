//! The sockets: the listener, and the connections that it accepts.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use socket2::SockRef;
#[cfg(not(any(target_os = "android", target_os = "linux")))]
use socket2::TcpKeepalive;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How many connections may wait to be accepted. A client beyond that tries again after 1, 3 and 7 seconds.
/// Linux uses `net.core.somaxconn` if it is smaller; by default it is the same.
const BACKLOG: u32 = 4_096;

/// Binds `address` and prints the first line of standard output: `listening on http://ADDR`. For port
/// 0 it prints the port that the system chose. If systemd has passed a socket, uses that instead of
/// `address`: it stays open while the program restarts, so no connection is refused. Call it once.
///
/// # Errors
/// If the address cannot be bound, or if what systemd has passed is not a socket. The error names the address.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = passed_or_bound(address).map_err(|error| {
        let text = format!("cannot listen on {address}: {error}");
        io::Error::new(error.kind(), text)
    })?;
    let bound = listener.local_addr()?;
    // The server serves even if standard output is closed.
    let _ = writeln!(io::stdout(), "listening on http://{bound}");
    Ok(listener)
}

fn passed_or_bound(address: SocketAddr) -> io::Result<TcpListener> {
    match passed()? {
        Some(listener) => Ok(listener),
        None => bind(address),
    }
}

/// The socket of socket activation: sd_listen_fds(3).
fn passed() -> io::Result<Option<TcpListener>> {
    let passed = sd_listen_fds::get().map_err(io::Error::other)?;
    let Some((_, socket)) = passed.into_iter().next() else {
        return Ok(None);
    };
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Some)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart then need not wait until old connections time out. On Windows it would let two servers share
    // the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Prepares an accepted connection:
/// - Small answers are sent at once.
/// - A peer that is gone without a FIN or RST is noticed. On Linux, this is after it has acknowledged nothing
///   for `stall` (`TCP_USER_TIMEOUT`). Elsewhere TCP's keep-alive starts after `stall`. `StallGuard` alone
///   does not notice it, because a small answer fits into the kernel's buffer.
/// - On Linux at most `MAX_UNSENT` bytes wait in the kernel for a peer that does not read. The kernel's own
///   limit is some megabytes, and messages that wait there would be stale when the peer reads again.
pub fn prepare(stream: &TcpStream, stall: Duration) {
    // These fail only on a socket that is closed already.
    let _ = stream.set_nodelay(true);
    let _ = notice_loss(&SockRef::from(stream), stall);
}

/// How many bytes the kernel takes beyond what it can send at once.
#[cfg(any(target_os = "android", target_os = "linux"))]
const MAX_UNSENT: u32 = 64 * 1024;

#[cfg(any(target_os = "android", target_os = "linux"))]
fn notice_loss(socket: &SockRef<'_>, stall: Duration) -> io::Result<()> {
    let bounded = socket.set_tcp_notsent_lowat(MAX_UNSENT);
    // The kernel takes milliseconds in an `int`: at most 24 days. 0 would be its own default, 15 minutes.
    const MOST: Duration = Duration::from_millis(i32::MAX as u64);
    socket.set_tcp_user_timeout(Some(stall.clamp(Duration::from_millis(1), MOST)))?;
    bounded
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn notice_loss(socket: &SockRef<'_>, stall: Duration) -> io::Result<()> {
    // The system takes whole seconds.
    let idle = stall.max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_connection_has_no_delay_little_unsent_and_the_stall_as_its_user_timeout() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (stream, _) = listener.accept().await.unwrap();
        for (stall, set) in [
            (Duration::from_secs(30), 30_000),
            (Duration::from_nanos(1), 1),
            (Duration::MAX, i32::MAX as u64),
        ] {
            prepare(&stream, stall);
            let timeout = SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(timeout, Some(Duration::from_millis(set)));
        }
        assert!(stream.nodelay().unwrap());
        let unsent = SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        assert_eq!(unsent, MAX_UNSENT);
    }
}
