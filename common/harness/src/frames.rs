//! A websocket client that shows every frame and can send invalid ones. It follows RFC 6455, and uses no code of
//! the members.

use std::net::SocketAddr;

use super::{
    Wait,
    body::{field, fields, status},
    wire::Wire,
};

/// The key of RFC 6455 §1.3, and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The masking key of the examples in RFC 6455 §5.7.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Stands for a close frame without a status (RFC 6455 §7.1.5).
const NO_STATUS: u16 = 1005;

/// An upgraded connection. It answers neither pings nor closes.
#[derive(Debug)]
pub struct WsWire {
    wire: Wire,
    head: String,
}

/// One frame (RFC 6455 §5.2), with its payload unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it is the last of its message.
    pub fin: bool,
    /// The three reserved bits, 0 to 7.
    pub rsv: u8,
    /// 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// A client masks its frames, a server does not.
    pub masked: bool,
    /// The payload.
    pub payload: Vec<u8>,
}

impl WsWire {
    /// Connects to `addr` and upgrades at `path`.
    ///
    /// # Panics
    ///
    /// If the answer is not a valid 101.
    pub async fn connect(addr: SocketAddr, path: &str) -> Self {
        Self::connect_with(addr, path, &[]).await
    }

    /// The same with more header fields, such as `Sec-WebSocket-Protocol` or `Origin`.
    ///
    /// # Panics
    ///
    /// If the answer is not a valid 101.
    pub async fn connect_with(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut wire = Wire::connect(addr).await;
        wire.send(handshake(&addr.to_string(), path, headers)).await;
        Self::on_wire(wire).await
    }

    /// Reads the answer to a [`handshake`] that was sent on this connection.
    ///
    /// # Panics
    ///
    /// If it is not a valid 101 (RFC 6455 §4.2.2).
    pub async fn on_wire(mut wire: Wire) -> Self {
        let head = wire.read_head().await;
        assert_eq!(status(&head), 101, "not switching protocols: {head:?}");
        let lower = |name| field(&head, name).map(str::to_ascii_lowercase);
        assert_eq!(
            lower("upgrade").as_deref(),
            Some("websocket"),
            "in {head:?}"
        );
        assert_eq!(
            lower("connection").as_deref(),
            Some("upgrade"),
            "in {head:?}"
        );
        assert_eq!(
            field(&head, "sec-websocket-accept"),
            Some(ACCEPT),
            "in {head:?}"
        );
        Self { wire, head }
    }

    /// The head of the answer.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The value of the first header field of this name in the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Sends a text message in one frame.
    ///
    /// # Panics
    ///
    /// If the peer does not take it.
    pub async fn send_text(&mut self, text: &str) {
        self.send_frame(Frame::text(text)).await;
    }

    /// Sends this frame, valid or not.
    ///
    /// # Panics
    ///
    /// If the peer does not take it.
    pub async fn send_frame(&mut self, frame: Frame) {
        self.wire.send(frame.encode()).await;
    }

    /// Sends these bytes.
    ///
    /// # Panics
    ///
    /// If the peer does not take them.
    pub async fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).await;
    }

    /// Sends a close frame, and does not wait for the answer.
    ///
    /// # Panics
    ///
    /// If the peer does not take it.
    pub async fn close(&mut self, code: u16, reason: &str) {
        self.send_frame(Frame::close(code, reason)).await;
    }

    /// The next frame. `None` if the connection ended: [`Wire::closed`] says how.
    ///
    /// # Panics
    ///
    /// If the connection ends within a frame, if the length is not in its shortest form, or if patience ends.
    pub async fn next_frame(&mut self) -> Option<Frame> {
        let wait = Wait::until("the next frame");
        while self.wire.buffer.is_empty() {
            if !self.wire.fill(&wait).await {
                return None;
            }
        }
        let [first, second] = self.array().await;
        let length = self.length(second & 0x7f).await;
        let masked = second & 0x80 != 0;
        let mask = if masked { self.array().await } else { [0; 4] };
        let payload = masking(&self.wire.read_exact(length).await, mask);
        Some(Frame {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 7,
            opcode: first & 0x0f,
            masked,
            payload,
        })
    }

    /// The text of the next frame.
    ///
    /// # Panics
    ///
    /// If no frame comes, or if it is not a whole text message from a server.
    pub async fn next_text(&mut self) -> String {
        let frame = self
            .next_frame()
            .await
            .expect("expected a text, but the connection ended");
        let plain = frame.fin && frame.rsv == 0 && frame.opcode == 1 && !frame.masked;
        assert!(plain, "expected a text, not {frame:?}");
        String::from_utf8(frame.payload).expect("a text is UTF-8")
    }

    /// The text of the next frame as JSON.
    ///
    /// # Panics
    ///
    /// As [`WsWire::next_text`], and if it is not JSON.
    pub async fn next_json(&mut self) -> serde_json::Value {
        let text = self.next_text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text:?}"))
    }

    /// The code and reason of the next frame, a close frame. Without a code, the code is 1005.
    ///
    /// # Panics
    ///
    /// If no frame comes, or if it is not a close frame from a server.
    pub async fn expect_close(&mut self) -> (u16, String) {
        let frame = self
            .next_frame()
            .await
            .expect("the connection ended without a close frame");
        let plain = frame.fin && frame.rsv == 0 && frame.opcode == 8 && !frame.masked;
        assert!(
            plain && frame.payload.len() != 1,
            "expected a close frame, not {frame:?}"
        );
        let Some((code, reason)) = frame.payload.split_first_chunk() else {
            return (NO_STATUS, String::new());
        };
        (
            u16::from_be_bytes(*code),
            String::from_utf8(reason.to_vec()).expect("a reason is UTF-8"),
        )
    }

    /// The underlying connection, for example to half-close it or to wait until it is closed.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The underlying connection, for example to reset it.
    pub fn into_wire(self) -> Wire {
        self.wire
    }

    async fn length(&mut self, short: u8) -> usize {
        let (length, least) = match short {
            126 => (u64::from(u16::from_be_bytes(self.array().await)), 126),
            127 => (u64::from_be_bytes(self.array().await), 1 << 16),
            short => (u64::from(short), 0),
        };
        assert!(
            length >= least,
            "a length of {length} is not in its shortest form (RFC 6455 §5.2)"
        );
        usize::try_from(length).expect("a frame fits into memory")
    }

    async fn array<const N: usize>(&mut self) -> [u8; N] {
        self.wire
            .read_exact(N)
            .await
            .try_into()
            .expect("it is as long as requested")
    }
}

impl Frame {
    /// A whole text message from a client.
    pub fn text(text: &str) -> Self {
        Self::client(1, text)
    }

    /// A whole binary message from a client.
    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::client(2, payload)
    }

    /// A client's close frame.
    pub fn close(code: u16, reason: &str) -> Self {
        Self::client(8, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// A client's ping.
    pub fn ping(payload: impl Into<Vec<u8>>) -> Self {
        Self::client(9, payload)
    }

    /// A client's pong.
    pub fn pong(payload: impl Into<Vec<u8>>) -> Self {
        Self::client(10, payload)
    }

    /// A final, masked frame of any opcode. For other frames, change the fields.
    pub fn client(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            masked: true,
            payload: payload.into(),
        }
    }

    /// The bytes of this frame, with the length in its shortest form.
    pub fn encode(&self) -> Vec<u8> {
        let mask_bit = u8::from(self.masked) << 7;
        let mut bytes = vec![u8::from(self.fin) << 7 | (self.rsv & 7) << 4 | self.opcode & 0x0f];
        match self.payload.len() {
            short @ 0..126 => bytes.push(mask_bit | short as u8),
            middle @ 126..0x1_0000 => {
                bytes.push(mask_bit | 126);
                bytes.extend((middle as u16).to_be_bytes());
            }
            long => {
                bytes.push(mask_bit | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        let mask = if self.masked { MASK } else { [0; 4] };
        bytes.extend(self.masked.then_some(mask).into_iter().flatten());
        bytes.extend(masking(&self.payload, mask));
        bytes
    }
}

/// The request that opens a websocket (RFC 6455 §4.1).
pub fn handshake(host: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let key = format!("Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n");
    let more = fields(headers);
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{upgrade}{key}{more}\r\n")
}

/// Adds or removes the mask (RFC 6455 §5.3).
fn masking(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect()
}
