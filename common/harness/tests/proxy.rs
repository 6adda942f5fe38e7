//! Each fault of the proxy does what it says, on connections that are open and on those to come.

use std::time::{Duration, Instant};

use harness::{End, Fault, FaultProxy, Faults, PATIENCE, Wire, WireListener};
use tokio::{task::yield_now, time::timeout};

/// A proxy, the connection into it, and the one that comes out of it.
async fn through(faults: impl Into<Faults>) -> (FaultProxy, Wire, Wire) {
    let listener = WireListener::bind().await;
    let upstream = listener.addr();
    let proxy = FaultProxy::start(upstream, faults).await;
    let client = Wire::connect(proxy.addr()).await;
    (proxy, client, listener.accept().await)
}

#[tokio::test]
async fn without_a_fault_everything_passes_and_is_counted() {
    let (proxy, mut client, mut server) = through(Fault::Pass).await;
    client.send("up").await;
    server.expect("up").await;
    server.send("down").await;
    client.expect("down").await;
    assert_eq!(
        (proxy.bytes_up(), proxy.bytes_down(), proxy.connections()),
        (2, 4, 1)
    );
}

#[tokio::test]
async fn a_half_close_passes_and_the_other_direction_goes_on() {
    let (_proxy, mut client, mut server) = through(Fault::Pass).await;
    client.send("last").await;
    client.half_close().await;
    assert_eq!(server.closed().await, (End::Eof, b"last".to_vec()));
    server.send("answer").await;
    server.half_close().await;
    assert_eq!(client.closed().await, (End::Eof, b"answer".to_vec()));
}

#[tokio::test]
async fn a_reset_passes() {
    let (_proxy, client, mut server) = through(Fault::Pass).await;
    client.reset();
    assert_eq!(server.closed().await.0, End::Reset);
}

#[tokio::test]
async fn a_refused_upstream_is_a_reset() {
    let listener = WireListener::bind().await;
    let upstream = listener.addr();
    drop(listener);
    let proxy = FaultProxy::start(upstream, Fault::Pass).await;
    assert_eq!(
        Wire::connect(proxy.addr()).await.closed().await.0,
        End::Reset
    );
}

#[tokio::test]
async fn much_passes_whole_in_both_directions_at_once() {
    let (proxy, mut client, mut server) = through(Fault::Pass).await;
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|count| count.to_le_bytes()[1])
        .collect();
    let echo = tokio::spawn(async move {
        for _ in 0..30 {
            let piece = server.read_exact(100_000).await;
            server.send(piece).await;
        }
    });
    let mut came = Vec::new();
    for piece in sent.chunks(100_000) {
        client.send(piece).await;
        came.extend(client.read_exact(100_000).await);
    }
    echo.await.unwrap();
    assert!(came == sent);
    assert_eq!(
        (proxy.bytes_up(), proxy.bytes_down()),
        (3_000_000, 3_000_000)
    );
}

#[tokio::test]
async fn bytes_arrive_one_at_a_time() {
    let listener = WireListener::bind().await;
    let upstream = listener.addr();
    let proxy = FaultProxy::start(upstream, Faults::down(Fault::ByteAtATime)).await;
    let client = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    listener.accept().await.send("abcdefghij").await;
    let (mut reads, mut came) = (0, Vec::new());
    while came.len() < 10 {
        let readable = timeout(PATIENCE, client.readable()).await;
        readable.expect("more comes").unwrap();
        match client.try_read_buf(&mut came) {
            Ok(0) => panic!("the connection ended after {came:?}"),
            read => reads += usize::from(read.is_ok()),
        }
    }
    assert_eq!(came, b"abcdefghij");
    assert!(reads > 5, "{reads} reads of ten bytes");
}

#[tokio::test]
async fn a_delay_keeps_the_order_and_lets_bytes_travel_together() {
    const DELAY: Duration = Duration::from_millis(100);
    let (_proxy, mut client, mut server) = through(Faults::up(Fault::Delay(DELAY))).await;
    let sent = Instant::now();
    let bytes: Vec<u8> = (0..150).collect();
    for byte in &bytes {
        client.send([*byte]).await;
        yield_now().await;
    }
    client.half_close().await;
    assert_eq!(server.closed().await, (End::Eof, bytes));
    let took = sent.elapsed();
    // One delay for all of them. A delay for each would be fifteen seconds, even on a busy machine.
    assert!(DELAY <= took && took < DELAY * 150, "{took:?}");
}

#[tokio::test]
async fn a_stall_takes_nothing_and_loses_nothing() {
    let (proxy, mut client, mut server) = through(Faults::up(Fault::Stall)).await;
    client.send("kept").await;
    server.send("down").await;
    client.expect("down").await;
    assert_eq!(proxy.bytes_up(), 0);
    proxy.set(Fault::Pass);
    server.expect("kept").await;
}

#[tokio::test]
async fn a_stall_pushes_back() {
    let (proxy, mut client, mut server) = through(Fault::Stall).await;
    let sending = tokio::spawn(async move {
        client.send(vec![b'x'; 20_000_000]).await;
        client
    });
    proxy.set(Faults::down(Fault::Stall));
    server.read_exact(1).await;
    proxy.set(Fault::Stall);
    server.send("is not read").await;
    assert!(!sending.is_finished());
    proxy.set(Fault::Pass);
    server.read_exact(19_999_999).await;
    sending.await.unwrap().expect("is not read").await;
}

#[tokio::test]
async fn a_reset_strikes_an_open_connection_on_both_sides() {
    let (proxy, mut client, mut server) = through(Fault::Pass).await;
    proxy.set(Faults::up(Fault::Reset));
    assert_eq!(client.closed().await.0, End::Reset);
    assert_eq!(server.closed().await.0, End::Reset);
}

#[tokio::test]
async fn a_reset_strikes_new_connections_until_it_is_taken_back() {
    let listener = WireListener::bind().await;
    let upstream = listener.addr();
    let proxy = FaultProxy::start(upstream, Fault::Reset).await;
    assert_eq!(
        Wire::connect(proxy.addr()).await.closed().await.0,
        End::Reset
    );
    assert_eq!(listener.accept().await.closed().await.0, End::Reset);
    proxy.set(Fault::Pass);
    let mut client = Wire::connect(proxy.addr()).await;
    listener.accept().await.send("well").await;
    client.expect("well").await;
}

#[tokio::test]
async fn a_reset_reaches_a_connection_that_nobody_reads() {
    let (proxy, mut client, server) = through(Fault::Pass).await;
    let sending = tokio::spawn(async move { client.try_send(vec![b'x'; 20_000_000]).await });
    proxy.set(Fault::Reset);
    assert!(sending.await.unwrap().is_err());
    drop(server);
}

#[tokio::test]
async fn a_half_close_ends_one_direction_only() {
    let (proxy, mut client, mut server) = through(Fault::Pass).await;
    proxy.set(Faults::down(Fault::HalfClose));
    assert_eq!(client.closed().await, (End::Eof, Vec::new()));
    server.send("is discarded").await;
    client.send("up").await;
    server.expect("up").await;
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (2, 0));
}

#[tokio::test]
async fn a_cut_comes_after_exactly_so_many_bytes() {
    for (count, came) in [(0, ""), (1, "o"), (6, "one tw"), (7, "one two")] {
        let (proxy, mut client, mut server) = through(Faults::down(Fault::CutAfter(count))).await;
        drop(server.try_send("one ").await);
        drop(server.try_send("two").await);
        assert_eq!(client.closed().await, (End::Eof, came.into()));
        server.closed().await;
        assert_eq!(proxy.bytes_down(), count);
    }
}

#[tokio::test]
async fn a_cut_counts_from_when_it_is_set() {
    let (proxy, mut client, mut server) = through(Fault::Pass).await;
    client.send("before").await;
    server.expect("before").await;
    proxy.set(Faults::up(Fault::CutAfter(3)));
    client.send("after").await;
    assert_eq!(server.closed().await, (End::Eof, b"aft".to_vec()));
    assert_eq!(client.closed().await.1, b"");
}

#[tokio::test]
async fn a_black_hole_takes_everything_and_lets_nothing_out() {
    let (proxy, mut client, mut server) = through(Faults::up(Fault::Blackhole)).await;
    client.send(vec![b'x'; 20_000_000]).await;
    client.half_close().await;
    server.send("down").await;
    client.expect("down").await;
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (0, 4));
}

#[tokio::test]
async fn what_a_black_hole_took_is_gone_when_it_is() {
    let (proxy, mut client, mut server) = through(Faults::up(Fault::Blackhole)).await;
    // More than fits into the buffers in between, so that what is left of it has been taken.
    client.send(vec![b'x'; 20_000_000]).await;
    proxy.set(Fault::Pass);
    client.send("\nand on").await;
    server.read_until("\nand on").await;
    assert!(proxy.bytes_up() < 20_000_000);
}

#[tokio::test]
async fn all_connections_are_dropped_and_new_ones_are_welcome() {
    let listener = WireListener::bind().await;
    let upstream = listener.addr();
    let proxy = FaultProxy::start(upstream, Fault::Pass).await;
    for _ in 0..2 {
        let (mut first, mut second) = (
            Wire::connect(proxy.addr()).await,
            Wire::connect(proxy.addr()).await,
        );
        let (mut third, mut fourth) = (listener.accept().await, listener.accept().await);
        proxy.drop_all();
        for side in [&mut first, &mut second, &mut third, &mut fourth] {
            assert_eq!(side.closed().await, (End::Eof, Vec::new()));
        }
    }
    assert_eq!(proxy.connections(), 4);
}

#[tokio::test]
async fn a_proxy_that_is_dropped_takes_its_connections_with_it() {
    let (proxy, mut client, mut server) = through(Fault::Stall).await;
    drop(proxy);
    client.closed().await;
    server.closed().await;
}
