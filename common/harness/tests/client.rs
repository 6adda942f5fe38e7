//! The HTTP client of the harness, against a peer whose every byte is written here.

use harness::{Client, End, WireListener};
use hyper::Method;

#[tokio::test]
async fn a_request_carries_what_it_was_given_and_the_answer_is_shown_whole() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let peer = tokio::spawn(async move {
        let mut peer = listener.accept().await;
        let head =
            format!("PUT /a?b HTTP/1.1\r\nhost: {addr}\r\nx-a: b\r\ncontent-length: 2\r\n\r\n{{}}");
        peer.expect(head).await;
        peer.send("HTTP/1.1 202 Accepted\r\nX-C: d\r\nContent-Length: 7\r\n\r\n{\"e\":1}")
            .await;
        peer.closed().await
    });
    let client = Client::new(addr);
    let reply = client
        .request(Method::PUT, "/a?b")
        .header("x-a", "b")
        .body("{}")
        .send()
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("x-c")),
        (202, Some("d"))
    );
    assert_eq!(reply.json()["e"], 1);
    assert_eq!(peer.await.unwrap(), (End::Eof, Vec::new()));
}

#[tokio::test]
async fn a_kept_connection_is_used_again_and_never_replaced() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let client = Client::keep_alive(addr).await;
    let peer = tokio::spawn(async move {
        let mut peer = listener.accept().await;
        for _ in 0..2 {
            peer.read_until("\r\n\r\n").await;
            peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    for _ in 0..2 {
        assert_eq!(client.get("/").send().await.status, 204);
    }
    peer.await.unwrap();
    assert!(client.get("/").try_send().await.is_err());
}

#[tokio::test]
async fn a_streamed_body_is_read_as_it_comes() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let opening = tokio::spawn(async move { Client::new(addr).get("/").open().await });
    let mut peer = listener.accept().await;
    peer.read_until("\r\n\r\n").await;
    peer.send("HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut streamed = opening.await.unwrap();
    assert_eq!(
        (streamed.status.as_u16(), streamed.header("x-a")),
        (200, Some("b"))
    );
    peer.send("3\r\none\r\n").await;
    assert_eq!(streamed.next_frame().await.unwrap(), "one");
    peer.send("4\r\n two\r\n4\r\n thr\r\n").await;
    assert_eq!(streamed.read_until("wo").await, " two");
    peer.send("2\r\nee\r\n0\r\n\r\n").await;
    assert_eq!(streamed.rest().await, " three");
    assert_eq!(peer.closed().await.0, End::Eof);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_not_an_end() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let opening = tokio::spawn(async move { Client::new(addr).get("/").open().await });
    let mut peer = listener.accept().await;
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    let mut streamed = opening.await.unwrap();
    assert_eq!(streamed.next_frame().await.unwrap(), "one");
    peer.half_close().await;
    assert!(streamed.try_next_frame().await.is_err());
}

#[tokio::test]
async fn dropping_a_streamed_answer_closes_its_connection() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let opening = tokio::spawn(async move { Client::new(addr).get("/").open().await });
    let mut peer = listener.accept().await;
    peer.read_until("\r\n\r\n").await;
    peer.send("HTTP/1.1 200 OK\r\n\r\n").await;
    drop(opening.await.unwrap());
    assert_eq!(peer.closed().await, (End::Eof, Vec::new()));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "for the whole answer to GET http://127.0.0.1:")]
async fn an_answer_that_does_not_come_fails_the_test() {
    let _listener = WireListener::bind().await;
    let addr = _listener.addr();
    Client::new(addr).get("/").send().await;
}
