//! The event stream reader of the harness against literal streams (HTML §9.2.6), split at every
//! byte.

use harness::{Block, Client, Ending, EventReader, Wire, WireListener};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A reader of an answer that arrives in these pieces.
async fn reading<const N: usize>(pieces: [&str; N]) -> EventReader {
    let listener = WireListener::bind().await;
    let near = Wire::connect(listener.addr()).await;
    let mut far = listener.accept().await;
    let pieces = pieces.map(str::to_owned);
    tokio::spawn(async move {
        for piece in &pieces {
            far.send(piece).await;
            tokio::task::yield_now().await;
        }
    });
    EventReader::on_wire(near).await
}

async fn all_of(mut reader: EventReader) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Some(block) = reader.next().await {
        blocks.push(block);
    }
    blocks
}

fn block(fields: &[(&str, &str)], comments: &[&str]) -> Block {
    let fields = fields
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    Block {
        fields,
        comments: comments.iter().map(|comment| (*comment).into()).collect(),
    }
}

#[tokio::test]
async fn a_stream_reads_the_same_wherever_it_is_split() {
    let stream =
        "\u{feff}: hi\r\n\r\nid:1\rdata: ü\rdata\r\revent: a\ndata:  b:c\nretry: 7\nodd\n\n\n";
    let due = [
        block(&[], &[" hi"]),
        block(&[("id", "1"), ("data", "ü"), ("data", "")], &[]),
        block(
            &[
                ("event", "a"),
                ("data", " b:c"),
                ("retry", "7"),
                ("odd", ""),
            ],
            &[],
        ),
        block(&[], &[]),
    ];
    for at in (0..=stream.len()).filter(|at| stream.is_char_boundary(*at)) {
        let (first, second) = stream.split_at(at);
        assert_eq!(
            all_of(reading([HEAD, first, second]).await).await,
            due,
            "split at {at}"
        );
    }
}

#[tokio::test]
async fn chunks_read_the_same_wherever_they_are_split() {
    let stream = "6\r\nid: 1\n\r\n8;x=y\r\ndata: a\n\r\nB\r\n\n: beat\n\nid\r\n1\r\n:\r\n0\r\n\r\n";
    for at in 0..=stream.len() {
        let (first, second) = stream.split_at(at);
        let mut reader = reading([CHUNKED, first, second]).await;
        assert_eq!(
            reader.next().await,
            Some(block(&[("id", "1"), ("data", "a")], &[]))
        );
        assert_eq!(reader.next().await, Some(block(&[], &[" beat"])));
        assert_eq!(reader.next().await, None);
        assert_eq!(
            (reader.ending(), reader.unfinished()),
            (Some(Ending::Complete), "id:".into())
        );
    }
}

#[tokio::test]
async fn a_block_is_shown_as_soon_as_its_blank_line_is_there() {
    for end in ["\n\n", "\r\r", "\r\n\r"] {
        let listener = WireListener::bind().await;
        let near = Wire::connect(listener.addr()).await;
        let mut far = listener.accept().await;
        far.send(format!("{HEAD}data: x{end}")).await;
        let mut reader = EventReader::on_wire(near).await;
        assert_eq!(reader.next().await.unwrap().data().as_deref(), Some("x"));
    }
}

#[tokio::test]
async fn the_parts_of_an_event_are_what_a_browser_takes_them_for() {
    let stream = "id: 1\nid: 2\0\nevent: a\nevent: b\ndata: x\ndata\ndata: y\nretry: 10\nretry: 1s\n\nid\n\n";
    let mut reader = reading([HEAD, stream]).await;
    let first = reader.next().await.unwrap();
    assert_eq!(
        (first.id(), first.event(), first.retry()),
        (Some("1"), Some("b"), Some(10))
    );
    assert_eq!(first.data().as_deref(), Some("x\n\ny"));
    let second = reader.next().await.unwrap();
    assert_eq!(
        (second.id(), second.event(), second.retry()),
        (Some(""), None, None)
    );
    assert_eq!(second.data(), None);
}

#[tokio::test]
async fn a_line_can_be_read_by_itself() {
    let mut reader = reading([HEAD, ": beat\ndata: 1\n\n"]).await;
    assert_eq!(reader.next_line().await.as_deref(), Some(": beat"));
    assert_eq!(reader.next().await, Some(block(&[("data", "1")], &[])));
}

#[tokio::test]
async fn a_stream_that_is_cut_is_told_from_one_that_is_complete() {
    for (head, ending) in [(CHUNKED, Ending::Cut), (HEAD, Ending::Complete)] {
        let mut reader = reading([head, "3\r\nid:\r\n"]).await;
        while reader.next().await.is_some() {}
        assert_eq!(reader.ending(), Some(ending));
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_is_told_too() {
    let listener = WireListener::bind().await;
    let near = Wire::connect(listener.addr()).await;
    let mut far = listener.accept().await;
    far.send(HEAD).await;
    let mut reader = EventReader::on_wire(near).await;
    far.reset();
    assert_eq!(reader.next().await, None);
    assert_eq!(reader.ending(), Some(Ending::Reset));
}

#[tokio::test]
async fn a_client_s_answer_reads_like_a_wire() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let opening = tokio::spawn(async move { Client::new(addr).get("/").open().await });
    let mut far = listener.accept().await;
    far.read_until("\r\n\r\n").await;
    far.send(format!("{CHUNKED}9\r\ndata: 1\n\n\r\n")).await;
    let mut reader = EventReader::on_stream(opening.await.unwrap());
    assert_eq!(
        reader.head(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(reader.next().await.unwrap().json(), 1);
    far.send("3\r\nid:\r\n").await;
    far.half_close().await;
    assert_eq!(reader.next().await, None);
    assert_eq!(
        (reader.ending(), reader.unfinished()),
        (Some(Ending::Cut), "id:".into())
    );
}

#[tokio::test]
async fn the_request_for_a_stream_is_this_one() {
    let listener = WireListener::bind().await;
    let addr = listener.addr();
    let reading = tokio::spawn(async move {
        EventReader::connect_with(addr, "/t", &[("Last-Event-ID", "a-1")]).await
    });
    let mut far = listener.accept().await;
    let fields = "Accept: text/event-stream\r\nLast-Event-ID: a-1\r\n";
    far.expect(format!("GET /t HTTP/1.1\r\nHost: {addr}\r\n{fields}\r\n"))
        .await;
    far.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut reader = reading.await.unwrap();
    assert_eq!((reader.status(), reader.next().await), (204, None));
}
