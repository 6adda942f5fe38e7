//! Socket activation: systemd, or the test in its place, keeps the listener while the program restarts.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::Stdio,
};

use harness::{PATIENCE, Wire};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// Runs the program as systemd does with a socket unit: descriptor 3 is the listener, which this process keeps.
fn activated(listener: &TcpListener) -> io::Result<Child> {
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, crate::PROGRAM])
        .kill_on_drop(true);
    command.stdin(OwnedFd::from(listener.try_clone()?));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}

/// Asks on one new connection after another, and counts them in `done` until its receiver is dropped. Returns how many
/// connections ended without an answer.
async fn connects(addr: SocketAddr, done: watch::Sender<usize>) -> usize {
    let mut closed = 0;
    while !done.is_closed() {
        let mut wire = Wire::try_connect(addr)
            .await
            .expect("no connection is refused");
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let _ = wire.try_send(request).await; // What comes back counts.
        let (_, answer) = wire.closed().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            answer.escape_ascii()
        );
        closed += usize::from(answer.is_empty());
        done.send_modify(|done| *done += 1);
    }
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn with_socket_activation_a_restart_refuses_no_connection() {
    const RESTARTS: usize = 5;
    /// To each server before its end.
    const CONNECTS: usize = 160;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let (sender, mut done) = watch::channel(0);
    let client = tokio::spawn(connects(addr, sender));
    for _ in 0..RESTARTS {
        let mut server = activated(&listener).expect("it starts");
        let before = *done.borrow();
        let served = done.wait_for(|done| *done >= before + CONNECTS);
        let served = timeout(PATIENCE, served).await.expect("it serves");
        served.expect("the client goes on");
        let pid = server.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(sent.expect("kill").success());
        let ended = timeout(PATIENCE, server.wait()).await.expect("it drains");
        assert_eq!(ended.expect("it ended").code(), Some(0));
    }
    let _last = activated(&listener).expect("it starts");
    drop(done);
    let closed = timeout(PATIENCE, client).await.expect("it serves");
    let closed = closed.expect("no connection is refused");
    assert!(
        closed <= RESTARTS,
        "{closed} were accepted and not answered"
    );
}
