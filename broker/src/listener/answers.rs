//! Memory for answers to reads: one is made for a client only where there is room for it.
//!
//! Owns: the bytes of answers that are made and not yet written to their connections. Does not own:
//! what an answer is (`read`), how much a stream may have made ahead (its credit).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::TryFutureExt;
use futures::future::MapOk;
use futures::stream::Stream;
use http_body::{Frame, SizeHint};
use levee_proto::grpc::ReadResponse;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tower::{Layer, Service};

/// The room that all answers share.
#[derive(Clone)]
pub(crate) struct AnswerRoom {
    room: Arc<Semaphore>,
    bytes: usize,
}

/// Room that is taken; given back when it is dropped.
pub(crate) type Taken = OwnedSemaphorePermit;

impl AnswerRoom {
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(u32::MAX as usize);
        Self { room: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.bytes.saturating_sub(self.room.available_permits())
    }

    /// What an answer of so many bytes takes: one that is larger than all of it goes alone.
    fn share(&self, bytes: usize) -> u32 {
        bytes.min(self.bytes) as u32
    }

    /// Room for an answer that is made, some of which may be held; nothing where there is none now.
    pub(crate) fn take(&self, bytes: usize, mut held: Option<Taken>) -> Option<Taken> {
        self.hold(bytes, &mut held).then_some(held).flatten()
    }

    /// Makes `held` room for so many bytes, no more and no less; leaves it where there is not enough.
    pub(crate) fn hold(&self, bytes: usize, held: &mut Option<Taken>) -> bool {
        let wanted = self.share(bytes);
        let has = held.as_ref().map_or(0, Taken::num_permits) as u32;
        if let Some(held) = held.as_mut().filter(|_| has > wanted) {
            drop(held.split((has - wanted) as usize));
            return true;
        }
        let Ok(more) = self.room.clone().try_acquire_many_owned(wanted - has) else { return false };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        true
    }

    /// Waits for room for an answer that is still to be made.
    pub(crate) async fn wait(&self, bytes: usize) -> Option<Taken> {
        self.room.clone().acquire_many_owned(self.share(bytes)).await.ok()
    }
}

/// An answer, and the room that it takes until it is written.
pub(super) struct Answer {
    pub(super) response: ReadResponse,
    /// Of the batches that it was made of.
    pub(super) bytes: usize,
    pub(super) room: Option<Taken>,
}

impl Answer {
    /// One that takes next to nothing.
    pub(super) fn small(response: ReadResponse) -> Self {
        Self { response, bytes: 0, room: None }
    }
}

/// Answers of a stream. The room of one is given back when the next one is asked for: then the
/// window of the client had place for it.
pub(super) struct Answers {
    pub(super) receive: mpsc::Receiver<Result<Answer, Status>>,
    pub(super) held: Option<Taken>,
}

impl Stream for Answers {
    type Item = Result<ReadResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.held = None;
        let next = ready!(self.receive.poll_recv(cx));
        Poll::Ready(next.map(|answer| {
            let answer = answer?;
            self.held = answer.room;
            Ok(answer.response)
        }))
    }
}

/// In the extensions of an answer that comes alone; [`AnswerLayer`] takes it from there.
#[derive(Clone)]
pub(super) struct Held(
    #[expect(dead_code, reason = "it is given back when it is dropped")] Arc<Taken>,
);

impl Held {
    pub(super) fn new(room: Taken) -> Self {
        Self(Arc::new(room))
    }
}

/// Lets the room of an answer that comes alone live as long as its body.
#[derive(Clone)]
pub(super) struct AnswerLayer;

impl<S> Layer<S> for AnswerLayer {
    type Service = AnswerService<S>;

    fn layer(&self, inner: S) -> AnswerService<S> {
        AnswerService { inner }
    }
}

/// See [`AnswerLayer`].
#[derive(Clone)]
pub(super) struct AnswerService<S> {
    inner: S,
}

type Response = http::Response<Body>;

impl<S> Service<http::Request<Body>> for AnswerService<S>
where
    S: Service<http::Request<Body>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response) -> Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.inner.call(request).map_ok(held_by_body as fn(Response) -> Response)
    }
}

fn held_by_body(mut response: Response) -> Response {
    match response.extensions_mut().remove::<Held>() {
        Some(held) => response.map(|body| Body::new(HeldBody { body, _held: held })),
        None => response,
    }
}

struct HeldBody {
    body: Body,
    _held: Held,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn free(room: &AnswerRoom) -> usize {
        room.room.available_permits()
    }

    #[tokio::test]
    async fn what_is_made_has_room_and_what_waits_holds_nothing() {
        let room = AnswerRoom::new(100);
        let first = room.take(70, None).unwrap();
        assert!(room.take(40, None).is_none());
        assert!(room.wait(40).now_or_never().is_none());
        drop(first);
        let held = room.wait(40).await;
        // It turned out smaller, then larger than what was held.
        let taken = room.take(30, held).unwrap();
        assert_eq!((taken.num_permits(), free(&room)), (30, 70));
        let taken = room.take(90, Some(taken)).unwrap();
        assert_eq!((taken.num_permits(), free(&room)), (90, 10));
        drop(taken);
        // Larger than all there is: alone.
        assert_eq!(room.take(1000, None).unwrap().num_permits(), 100);
    }

    #[tokio::test]
    async fn a_stream_gives_room_back_as_its_answers_are_taken() {
        let room = AnswerRoom::new(100);
        let (send, receive) = mpsc::channel(4);
        for _ in 0..2 {
            let room = room.take(50, None);
            let response = ReadResponse::default();
            send.try_send(Ok(Answer { response, bytes: 1, room })).ok().unwrap();
        }
        let mut answers = Answers { receive, held: None };
        for left in [0, 50] {
            answers.next().await.unwrap().unwrap();
            assert_eq!(free(&room), left);
        }
        assert!(answers.next().now_or_never().is_none());
        assert_eq!(free(&room), 100);
    }

    #[tokio::test]
    async fn room_of_one_answer_lives_as_long_as_its_body() {
        let room = AnswerRoom::new(100);
        let body = http_body_util::Full::new(Bytes::from_static(b"x"));
        let mut response = Response::new(Body::new(body));
        response.extensions_mut().insert(Held::new(room.take(50, None).unwrap()));
        let response = held_by_body(response);
        assert_eq!(free(&room), 50);
        drop(response);
        assert_eq!(free(&room), 100);
    }
}
