//! The raw connection of the harness: what it compares, how it reads an answer, and which end it
//! saw.

use harness::{End, Wire, WireListener};

/// Both ends of a connection.
async fn pair() -> (Wire, Wire) {
    let listener = WireListener::bind().await;
    let near = Wire::connect(listener.addr()).await;
    (near, listener.accept().await)
}

/// What the near end gets to read of these bytes, each in its own segment.
async fn receiving(bytes: &'static str) -> Wire {
    let (near, mut far) = pair().await;
    tokio::spawn(async move { far.send_bytewise(bytes).await });
    near
}

#[tokio::test]
async fn expected_bytes_are_taken_and_no_more() {
    let mut wire = receiving("one two").await;
    wire.expect("one ").await;
    assert_eq!(wire.closed().await, (End::Eof, b"two".to_vec()));
}

#[tokio::test]
#[should_panic(expected = " expected: \"a\\r\\nb\"\n received: \"a\\n")]
async fn unexpected_bytes_are_shown_beside_the_expected_ones() {
    receiving("a\nb!").await.expect("a\r\nb").await;
}

#[tokio::test]
#[should_panic(expected = "unexpected bytes, and then the other side closed")]
async fn an_early_end_is_named() {
    receiving("on").await.expect("one").await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "waited 20s for \"one\"; what had arrived: \"on\"")]
async fn a_wait_without_event_ends_and_shows_what_had_arrived() {
    let (mut near, mut far) = pair().await;
    far.send("on").await;
    near.expect("one").await;
}

#[tokio::test]
async fn a_pattern_is_found_across_reads_and_what_follows_it_stays() {
    let mut wire = receiving("ab\r\n\r\ncd").await;
    assert_eq!(wire.read_until("\r\n\r\n").await, b"ab\r\n\r\n");
    assert_eq!(wire.read_exact(2).await, b"cd");
}

#[tokio::test]
async fn answers_follow_each_other_on_one_connection() {
    let mut wire = receiving(concat!(
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nX-A:  b \r\n\r\nabc",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "a;x=1\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end"
    ))
    .await;
    assert_eq!(wire.read_response().await.status, 100);
    let answer = wire.read_response().await;
    assert_eq!(
        answer.head,
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nX-A:  b \r\n\r\n"
    );
    assert_eq!((answer.text(), answer.header("x-a")), ("abc", Some("b")));
    assert_eq!(wire.read_response().await.body, b"");
    assert_eq!(wire.read_response().await.text(), "0123456789\n");
    assert_eq!(wire.read_response().await.text(), "until the end");
}

#[tokio::test]
#[should_panic(expected = "not the size of a chunk: \"+5\"")]
async fn a_malformed_chunk_fails_the_test() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n";
    receiving(answer).await.read_response().await;
}

#[tokio::test]
#[should_panic(expected = "expected an empty line in chunked coding, not \"c\"")]
async fn a_chunk_longer_than_its_size_fails_the_test() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n";
    receiving(answer).await.read_response().await;
}

#[tokio::test]
#[should_panic(expected = "and then the other side closed; what had arrived: \"HTTP/1.1 200 OK")]
async fn a_body_shorter_than_its_length_fails_the_test() {
    receiving("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd")
        .await
        .read_response()
        .await;
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    let (mut near, mut far) = pair().await;
    near.half_close().await;
    assert_eq!(far.closed().await.0, End::Eof);
    far.send("still here").await;
    near.expect("still here").await;
}

#[tokio::test]
async fn a_reset_is_told_from_an_end() {
    let (near, mut far) = pair().await;
    near.reset();
    assert_eq!(far.closed().await, (End::Reset, Vec::new()));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "waited 20s for the peer to take 8000000 bytes")]
async fn a_narrow_connection_soon_pushes_back() {
    let listener = WireListener::bind().await;
    let _narrow = Wire::connect_narrow(listener.addr(), 4096).await;
    listener.accept().await.send(vec![b'x'; 8_000_000]).await;
}
