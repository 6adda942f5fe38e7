//! The websocket client of the harness against literal bytes, among them the examples of RFC 6455
//! §5.7.

use harness::{End, Frame, Wire, WireListener, WsWire, handshake};

const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-A: b\r\n\r\n";

/// A websocket, and the connection on which a server would be.
async fn upgraded() -> (WsWire, Wire) {
    answered(ANSWER).await
}

async fn answered(answer: &str) -> (WsWire, Wire) {
    let listener = WireListener::bind().await;
    let near = Wire::connect(listener.addr()).await;
    let mut far = listener.accept().await;
    far.send(answer).await;
    (WsWire::on_wire(near).await, far)
}

fn from_server(fin: bool, opcode: u8, payload: &[u8]) -> Option<Frame> {
    Some(Frame {
        fin,
        rsv: 0,
        opcode,
        masked: false,
        payload: payload.into(),
    })
}

#[tokio::test]
async fn the_handshake_is_the_one_of_the_standard() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let connecting =
        tokio::spawn(async move { WsWire::connect_with(addr, "/t", &[("Origin", "x")]).await });
    let mut far = listener.accept().await;
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: x\r\n";
    let request = format!("GET /t HTTP/1.1\r\nHost: {addr}\r\n{fields}\r\n");
    assert_eq!(
        handshake(&addr.to_string(), "/t", &[("Origin", "x")]),
        request
    );
    far.expect(request).await;
    far.send_bytewise(ANSWER).await;
    let socket = connecting.await.unwrap();
    assert_eq!((socket.head(), socket.header("x-a")), (ANSWER, Some("b")));
}

#[tokio::test]
#[should_panic(expected = "not switching protocols")]
async fn a_refused_handshake_fails_the_test() {
    answered("HTTP/1.1 400 Bad Request\r\n\r\n").await;
}

#[tokio::test]
#[should_panic(expected = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]
async fn a_wrong_accept_fails_the_test() {
    answered(&ANSWER.replace("s3p", "S3P")).await;
}

#[tokio::test]
async fn frames_are_read_from_literal_bytes() {
    let (mut socket, mut far) = upgraded().await;
    far.send_bytewise(b"\x81\x05Hello\x01\x03Hel\x80\x02lo\x89\x05Hello")
        .await;
    assert_eq!(socket.next_frame().await, from_server(true, 1, b"Hello"));
    assert_eq!(socket.next_frame().await, from_server(false, 1, b"Hel"));
    assert_eq!(socket.next_frame().await, from_server(true, 0, b"lo"));
    assert_eq!(socket.next_frame().await, from_server(true, 9, b"Hello"));
    far.send(b"\xf3\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")
        .await;
    let odd = Frame {
        fin: true,
        rsv: 7,
        opcode: 3,
        masked: true,
        payload: b"Hello".into(),
    };
    assert_eq!(socket.next_frame().await, Some(odd));
    drop(far);
    assert_eq!(socket.next_frame().await, None);
    assert_eq!(socket.wire().closed().await.0, End::Eof);
}

#[tokio::test]
async fn each_form_of_length_goes_both_ways() {
    let heads: [(usize, &[u8]); 4] = [
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ];
    let (mut socket, mut far) = upgraded().await;
    for (length, head) in heads {
        let frame = Frame {
            masked: false,
            ..Frame::binary(vec![7; length])
        };
        assert_eq!(&frame.encode()[..head.len()], head);
        far.send(frame.encode()).await;
        assert_eq!(socket.next_frame().await, Some(frame));
    }
}

#[tokio::test]
#[should_panic(expected = "a length of 125 is not in its shortest form")]
async fn a_length_in_a_longer_form_than_needed_fails_the_test() {
    let (mut socket, mut far) = upgraded().await;
    far.send(b"\x82\x7e\x00\x7d").await;
    socket.next_frame().await;
}

#[tokio::test]
async fn frames_are_written_as_literal_bytes() {
    let (mut socket, mut far) = upgraded().await;
    socket.send_text("Hello").await;
    far.expect(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")
        .await;
    socket
        .send_frame(Frame {
            fin: false,
            rsv: 4,
            masked: false,
            ..Frame::ping("")
        })
        .await;
    far.expect(b"\x49\x00").await;
    socket.close(1000, "").await;
    far.expect(b"\x88\x82\x37\xfa\x21\x3d\x34\x12").await;
    socket.send_raw("anything").await;
    far.expect("anything").await;
    assert_eq!(Frame::pong("a").encode(), b"\x8a\x81\x37\xfa\x21\x3d\x56");
}

#[tokio::test]
async fn texts_and_closes_are_read_by_name() {
    let (mut socket, mut far) = upgraded().await;
    far.send(b"\x81\x02{}\x88\x04\x03\xe9by\x88\x00").await;
    assert_eq!(socket.next_json().await, serde_json::json!({}));
    assert_eq!(socket.expect_close().await, (1001, "by".into()));
    assert_eq!(socket.expect_close().await, (1005, String::new()));
}

#[tokio::test]
#[should_panic(expected = "expected a text, not Frame { fin: true, rsv: 0, opcode: 9")]
async fn a_ping_where_a_text_was_due_is_not_skipped() {
    let (mut socket, mut far) = upgraded().await;
    far.send(b"\x89\x00\x81\x00").await;
    socket.next_text().await;
}

#[tokio::test]
#[should_panic(expected = "waiting for 5 bytes, and then the other side closed")]
async fn an_end_within_a_frame_fails_the_test() {
    let (mut socket, mut far) = upgraded().await;
    far.send(b"\x81\x05Hell").await;
    drop(far);
    socket.next_frame().await;
}
