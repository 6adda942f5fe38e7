//! One request on a new connection.

use std::{error::Error, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// Any error. It is printed on the terminal.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The time limit, from connecting to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends a request and returns the whole answer. After an error it is unknown whether the request arrived.
pub(crate) async fn send(
    to: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, Failure> {
    let host = HeaderValue::try_from(to.to_string()).expect("an address is header text");
    request.headers_mut().insert(HOST, host);
    let answer = async {
        let stream = TcpStream::connect(to).await?;
        let (mut http, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new(); // ends with this function
        driver.spawn(connection);
        let (head, body) = http.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    timeout(PATIENCE, answer).await?
}
