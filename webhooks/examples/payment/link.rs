//! The link between two programs. It passes requests on, and breaks each one in a different way.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    http,
    program::{Program, Timeline},
};

/// How a request goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Nothing,
    /// The link answers 500, and the request does not arrive.
    Fails,
    /// The request does not arrive, and there is no answer.
    Stalls,
    /// The request arrives, and the answer is lost.
    LosesAnswer,
    /// The request arrives, and the caller is killed before it gets the answer.
    KillsCaller,
    /// The request arrives, the callee is killed after it answered, and the answer is lost.
    KillsCallee,
}

use Fault::{Fails, KillsCallee, KillsCaller, LosesAnswer, Nothing, Stalls};

/// They happen in this order, again and again.
pub(crate) const FAULTS: [Fault; 10] = [
    Nothing,
    LosesAnswer,
    Fails,
    Nothing,
    KillsCaller,
    Nothing,
    Stalls,
    Nothing,
    KillsCallee,
    Nothing,
];
pub(crate) const PEACE: [Fault; 1] = [Nothing];

/// The link from one program to another. Both may be killed and start again at another address.
pub(crate) struct Link {
    caller: Arc<Program>,
    callee: Arc<Program>,
    timeline: Timeline,
    faults: &'static [Fault],
    requests: AtomicUsize,
    /// For each payment, how often the callee has answered 2xx.
    taken: Mutex<BTreeMap<i64, usize>>,
}

impl Link {
    pub(crate) fn new(
        [caller, callee]: [&Arc<Program>; 2],
        timeline: Timeline,
        faults: &'static [Fault],
    ) -> Arc<Self> {
        Arc::new(Self {
            caller: caller.clone(),
            callee: callee.clone(),
            timeline,
            faults,
            requests: AtomicUsize::new(0),
            taken: Mutex::default(),
        })
    }

    /// Passes on the requests that come to `listener`. Never ends.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<Infallible> {
        loop {
            let (stream, _) = listener.accept().await?;
            let link = self.clone();
            let service = service_fn(move |request| {
                let link = link.clone();
                async move { link.pass(request).await }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A broken connection is the purpose here.
            tokio::spawn(async { drop(connection.await) });
        }
    }

    /// How many accepted requests were repeats.
    pub(crate) fn repeats(&self) -> usize {
        let taken = self.taken.lock().expect("nothing panics under this lock");
        taken.values().map(|times| times - 1).sum()
    }

    /// Answers a request. An error closes the connection without an answer.
    async fn pass(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = self.faults[number % self.faults.len()];
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let payment = payment(&body);
        match fault {
            Fails => {
                self.say(payment, "500 on the way");
                let mut answer = Response::default();
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return Ok(answer);
            }
            Stalls => {
                self.say(payment, "nothing, for as long as it waits");
                pending().await // the caller hangs up, and hyper drops this
            }
            Nothing | LosesAnswer | KillsCaller | KillsCallee => {}
        }
        let to = self.callee.address().await;
        let answer = http::send(to, Request::from_parts(head, body.into())).await;
        let answer = answer.map_err(|error| {
            self.say(payment, &format!("no answer: {error}"));
            io::Error::other(error)
        })?;
        self.take(payment, &answer);
        self.end(fault, payment, answer)
    }

    /// Passes the answer on, or breaks it.
    fn end(
        &self,
        fault: Fault,
        payment: i64,
        answer: Response<Bytes>,
    ) -> io::Result<Response<Full<Bytes>>> {
        let body = String::from_utf8_lossy(answer.body());
        let said = format!("{} {body}", answer.status().as_u16());
        let said = said.trim_end();
        match fault {
            LosesAnswer => self.say(payment, &format!("{said}, lost on the way back")),
            KillsCaller => {
                self.say(
                    payment,
                    &format!("{said}, but the {} dies", self.caller.name),
                );
                self.caller.kill()?;
            }
            KillsCallee => {
                self.say(
                    payment,
                    &format!("{said}, lost: the {} dies", self.callee.name),
                );
                self.callee.kill()?;
            }
            Nothing | Fails | Stalls => {
                self.say(payment, said);
                return Ok(answer.map(Full::from));
            }
        }
        Err(io::Error::other("cut"))
    }

    fn take(&self, payment: i64, answer: &Response<Bytes>) {
        if answer.status().is_success() {
            let mut taken = self.taken.lock().expect("nothing panics under this lock");
            *taken.entry(payment).or_default() += 1;
        }
    }

    fn say(&self, payment: i64, what: &str) {
        let way = format!("{} > {}", self.caller.name, self.callee.name);
        self.timeline
            .say(&way, &format!("payment {payment}: {what}"));
    }
}

/// The number of the payment in a body: in published data, or within a message.
fn payment(body: &[u8]) -> i64 {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let data = body.get("data").unwrap_or(&body);
    data["payment"].as_i64().unwrap_or_default()
}
