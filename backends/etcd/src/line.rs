//! Calls over one connection.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};
use tower_service::Service;

use crate::error::Fault;
use crate::proto::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};

/// The most bytes of one answer that are read. etcd itself takes no value above 1.5 MiB, unless it is told to.
const ANSWER_MAX: usize = 4 << 20;

/// A connection that is logged in. It ends when this is dropped.
pub(crate) struct Line {
    channel: Channel,
    origin: Uri,
    /// This machine's address on it.
    pub(crate) local_address: IpAddr,
    /// Fires when the connection is over.
    pub(crate) ended: CancellationToken,
    /// Why it is.
    why: Arc<OnceLock<Fault>>,
    /// Whether the server has asked for a client's certificate.
    is_certificate_asked_for: bool,
    /// Whether anything was answered.
    is_heard: AtomicBool,
    _driver: AbortOnDropHandle<()>,
}

/// How long a call that lost its connection waits to hear why.
const WHY: Duration = Duration::from_millis(100);

impl Line {
    pub(crate) fn new(
        channel: Channel,
        origin: Uri,
        local_address: IpAddr,
        driver: impl Future<Output = Result<(), Fault>> + Send + 'static,
    ) -> Self {
        let (ended, why) = (CancellationToken::new(), Arc::<OnceLock<Fault>>::default());
        let (ends, tells) = (ended.clone().drop_guard(), Arc::clone(&why));
        let driver = tokio::spawn(async move {
            let _ends = ends;
            if let Err(fault) = driver.await {
                let _ = tells.set(fault);
            }
        });
        Self {
            channel,
            origin,
            local_address,
            ended,
            why,
            is_certificate_asked_for: false,
            is_heard: AtomicBool::new(false),
            _driver: AbortOnDropHandle::new(driver),
        }
    }

    /// The same, on which the server has asked for a client's certificate.
    pub(crate) fn with_certificate_asked_for(self) -> Self {
        Self { is_certificate_asked_for: true, ..self }
    }

    /// A fault that ended a call; where that was the end of the connection, the reason for that.
    async fn reason(&self, fault: Fault) -> Fault {
        if !matches!(fault, Fault::Connection { .. }) {
            return fault;
        }
        // A client's certificate is refused after it was sent, when the connection seems to be made; and what the
        // server says of it is often lost with the connection.
        if self.is_certificate_asked_for && !self.is_heard.load(Ordering::Relaxed) {
            let reason =
                "the server asked for a client's certificate, and then closed the connection".to_owned();
            return Fault::Certificate { reason };
        }
        // Without a reason it was closed, and no more is known.
        let _ = timeout(WHY, self.ended.cancelled()).await;
        self.why.get().cloned().unwrap_or(fault)
    }

    /// Shows this login with each call from now on.
    pub(crate) fn log_in(&mut self, token: &str) -> Result<(), Fault> {
        let mut token = HeaderValue::from_str(token).map_err(|error| Fault::of_connection(&error))?;
        token.set_sensitive(true);
        self.channel.headers.insert("token", token);
        Ok(())
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::with_origin(self.channel.clone(), self.origin.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// One question, one answer.
    pub(crate) async fn unary<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Fault>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        match self.ask(path, question).await {
            Err(fault) => Err(self.reason(fault).await),
            answer => {
                self.is_heard.store(true, Ordering::Relaxed);
                answer
            }
        }
    }

    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Fault>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Fault::of_connection(&error))?;
        let codec = Protobuf::<Q, A>::default();
        let answer = grpc.unary(Request::new(question), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    /// Lets leases begin anew. Answers with the whole seconds of each; 0 for one that is over.
    pub(crate) async fn keep_alive(&self, leases: &[i64]) -> Result<Vec<i64>, Fault> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Fault::of_connection(&error))?;
        let questions: Vec<_> = leases.iter().map(|id| LeaseKeepAliveRequest { id: *id }).collect();
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let codec = Protobuf::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
        let answers = grpc.streaming(Request::new(stream::iter(questions)), path, codec).await?;
        let mut answers = answers.into_inner();
        let mut left = vec![0; leases.len()];
        for _ in leases {
            let answer = answers.message().await?.ok_or(Fault::Silent)?;
            for (id, left) in leases.iter().zip(&mut left) {
                if *id == answer.id {
                    *left = answer.ttl;
                }
            }
        }
        Ok(left)
    }

    /// What changes under keys from a revision on.
    pub(crate) async fn watch(&self, from: WatchCreateRequest) -> Result<Streaming<WatchResponse>, Fault> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Fault::of_connection(&error))?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = Protobuf::<WatchRequest, WatchResponse>::default();
        let answers = grpc.streaming(Request::new(never_over(from)), path, codec).await?;
        Ok(answers.into_inner())
    }
}

/// The server ends a watch when its questions do.
fn never_over(first: WatchCreateRequest) -> impl Stream<Item = WatchRequest> + Send {
    stream::iter([WatchRequest { create_request: Some(first) }]).chain(stream::pending())
}

/// How questions and answers are written.
struct Protobuf<Q, A>(PhantomData<(Q, A)>);

impl<Q, A> Default for Protobuf<Q, A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message + Send + 'static, A: Message + Default + Send + 'static> Codec for Protobuf<Q, A> {
    type Encode = Q;
    type Decode = A;
    type Encoder = Protobuf<Q, A>;
    type Decoder = Protobuf<Q, A>;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<Q: Message, A> Encoder for Protobuf<Q, A> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, question: Q, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        question.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<Q, A: Message + Default> Decoder for Protobuf<Q, A> {
    type Item = A;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        A::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// HTTP/2, as the client library of gRPC wants it.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: SendRequest<Body>,
    /// What goes with each call.
    headers: HeaderMap,
}

impl Channel {
    pub(crate) fn new(sender: SendRequest<Body>) -> Self {
        let mut headers = HeaderMap::new();
        // A member that has lost its leader says so, instead of letting a watch wait for one.
        headers.insert("hasleader", HeaderValue::from_static("true"));
        Self { sender, headers }
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        request.headers_mut().extend(headers);
        self.sender.send_request(request).boxed()
    }
}
