//! Memory for requests: a message is let in only when there is room for all of it.
//!
//! Owns: the bytes of messages that were received, or are being received, and have not been dealt
//! with. Does not own: what happens to a message (its service), what waits in a lane.
//!
//! ```text
//! connection -> HTTP/2 window -> Intake (waits for room) -> decoder -> service -> room given back
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tower::{Layer, Service};

use crate::error::Error;

/// How long a message may wait for room, and the least that it may take to arrive then.
const ROOM_TIME: Duration = Duration::from_secs(30);
const ARRIVAL_TIME: Duration = Duration::from_secs(5);
/// The slowest line that a large message still gets through.
const SLOW_BYTES_PER_SECOND: u64 = 1 << 20;
/// Smaller messages need no room, so that questions and beats of health never wait for appends.
const SMALL_BYTES: usize = 64 << 10;
/// What stands around a batch in a message.
pub(super) const ENVELOPE_BYTES: usize = 1 << 20;
/// In front of each gRPC message: a flag and the length.
const PREFIX: usize = 5;

/// The room that all requests share.
#[derive(Clone)]
pub(super) struct IntakeLayer {
    room: Arc<Semaphore>,
    message_max: usize,
}

impl IntakeLayer {
    /// `bytes` for all; no message may be larger than `message_max`, which must fit.
    pub(super) fn new(bytes: usize, message_max: usize) -> Self {
        assert!(message_max + PREFIX <= bytes, "one message must fit");
        Self { room: Arc::new(Semaphore::new(bytes)), message_max }
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = IntakeService<S>;

    fn layer(&self, inner: S) -> IntakeService<S> {
        IntakeService { inner, layer: self.clone() }
    }
}

/// Puts an [`Intake`] between a request's body and its service.
#[derive(Clone)]
pub(super) struct IntakeService<S> {
    inner: S,
    layer: IntakeLayer,
}

impl<S, A> Service<http::Request<Body>> for IntakeService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let held = Held::default();
        // A message of a stream is dealt with when the next one is asked for. One that comes alone
        // keeps its room until its service lets it go, or until its answer is there.
        let path = request.uri().path();
        let is_stream = path.ends_with("Stream") || path.starts_with("/grpc.reflection");
        let mut request = request;
        let kept = (!is_stream).then(|| RequestRoom(held.clone()));
        if let Some(room) = kept.clone() {
            request.extensions_mut().insert(room);
        }
        let request =
            request.map(|body| Body::new(Intake::new(body, self.layer.clone(), held, is_stream)));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(kept);
            answer
        })
    }
}

/// The room of a message that came alone.
#[derive(Clone)]
pub(super) struct RequestRoom(Held);

impl RequestRoom {
    /// Its bytes are counted elsewhere from here on.
    pub(super) fn give_back(&self) {
        drop(self.0.lock().take());
    }
}

/// RequestRoom that is taken.
type Held = Arc<Mutex<Option<OwnedSemaphorePermit>>>;
type Acquire =
    Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + 'static>>;

/// The prefix of the next message, as far as it is there.
#[derive(Default)]
struct Prefix {
    bytes: [u8; PREFIX],
    len: usize,
}

/// The body of a request: passes a frame on once there is room for each message that begins in it.
/// The end of one message never waits for room for the next.
struct Intake {
    body: Body,
    layer: IntakeLayer,
    held: Held,
    is_stream: bool,
    prefix: Prefix,
    /// Bytes of the present message that are still to come, and the room that it has.
    left: usize,
    open: usize,
    /// What came behind the end of a message.
    rest: Option<Bytes>,
    /// Data, and the room it waits for.
    waiting: Option<(Bytes, Acquire)>,
    /// How long the present message may still be waited for, and since when it is. The time that
    /// its service takes for the one before does not count.
    patience: Duration,
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Intake {
    fn new(body: Body, layer: IntakeLayer, held: Held, is_stream: bool) -> Self {
        Self {
            body,
            layer,
            held,
            is_stream,
            prefix: Prefix::default(),
            left: 0,
            open: 0,
            rest: None,
            waiting: None,
            patience: Duration::ZERO,
            waits: None,
        }
    }

    /// The messages before the present one were taken by the service.
    fn give_back(&self) {
        if let Some(held) = self.held.lock().as_mut() {
            let done = held.num_permits().saturating_sub(self.open);
            drop(held.split(done));
        }
    }

    /// More of the present message; what is behind it is kept.
    fn go_on(&mut self, mut data: Bytes) -> Bytes {
        let part = data.split_to(data.len().min(self.left));
        self.rest = (!data.is_empty()).then_some(data);
        self.left -= part.len();
        if self.left == 0 {
            self.open = 0;
        }
        part
    }

    /// RequestRoom for the messages that begin in `data`, which starts between two messages.
    fn count(&mut self, mut data: &[u8]) -> Result<usize, Error> {
        let mut begin = 0;
        while !data.is_empty() {
            let (head, rest) = data.split_at(data.len().min(PREFIX - self.prefix.len));
            self.prefix.bytes[self.prefix.len..][..head.len()].copy_from_slice(head);
            self.prefix.len += head.len();
            if self.prefix.len < PREFIX {
                break;
            }
            let [_, length @ ..] = self.prefix.bytes;
            self.prefix.len = 0;
            let length = u32::from_be_bytes(length) as usize;
            if length > self.layer.message_max {
                let max_batch = self.layer.message_max.saturating_sub(ENVELOPE_BYTES);
                return Err(Error::message_too_large(length, max_batch));
            }
            let room = if length > SMALL_BYTES { PREFIX + length } else { 0 };
            begin += room;
            let here = rest.len().min(length);
            data = &rest[here..];
            self.left = length - here;
            self.open = if self.left > 0 { room } else { 0 };
        }
        Ok(begin)
    }

    /// Takes what `data` needs, or waits for it.
    fn begin(&mut self, data: Bytes) -> Result<Option<Bytes>, Status> {
        let wanted = self.count(&data)?;
        if wanted == 0 {
            return Ok(Some(data));
        }
        if !self.is_stream && self.held.lock().is_some() {
            return Err(Error::invalid_argument("one message makes this request").into());
        }
        // A frame of many small messages may be larger than what one message may take.
        let wanted = wanted.min(self.layer.message_max + PREFIX) as u32;
        let room = self.layer.room.clone().acquire_many_owned(wanted);
        self.waiting = Some((data, Box::pin(room)));
        self.patience = ROOM_TIME;
        Ok(None)
    }

    fn keep(&mut self, room: OwnedSemaphorePermit) {
        let mut held = self.held.lock();
        match held.as_mut() {
            Some(held) => held.merge(room),
            None => *held = Some(room),
        }
        let for_bytes = Duration::from_secs(self.open as u64 / SLOW_BYTES_PER_SECOND);
        (self.patience, self.waits) = (ARRIVAL_TIME + for_bytes, None);
    }

    /// The next data that may be passed on.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_stream && self.waiting.is_none() {
            self.give_back();
        }
        while self.waiting.is_none() {
            let data = match self.rest.take() {
                Some(data) => data,
                None => match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    },
                    other => return Poll::Ready(other),
                },
            };
            if self.left > 0 {
                return Poll::Ready(Some(Ok(Frame::data(self.go_on(data)))));
            }
            if let Some(data) = self.begin(data)? {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        let Some((data, room)) = &mut self.waiting else { unreachable!("the loop waits for it") };
        let room = ready!(room.as_mut().poll(cx)).map_err(|e| Status::internal(e.to_string()))?;
        let data = std::mem::take(data);
        self.waiting = None;
        self.keep(room);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl http_body::Body for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = this.poll_data(cx);
        if polled.is_ready() {
            let waited = this.waits.take().map(|(since, _)| since.elapsed());
            this.patience = this.patience.saturating_sub(waited.unwrap_or_default());
        } else if this.open > 0 || this.waiting.is_some() {
            let patience = this.patience;
            let (_, over) = this
                .waits
                .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(patience))));
            ready!(over.as_mut().poll(cx));
            let error = Error::slow_message(this.waiting.is_some());
            return Poll::Ready(Some(Err(error.into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.rest.is_none() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// Sizes of these tests are in units that need room.
    const K: usize = SMALL_BYTES + 1;

    fn message(length: usize) -> Vec<u8> {
        let mut out = vec![0];
        out.extend((length as u32).to_be_bytes());
        out.resize(PREFIX + length, 7);
        out
    }

    /// A body of these bytes in frames of `size`.
    fn intake(layer: &IntakeLayer, is_stream: bool, bytes: &[u8], size: usize) -> Intake {
        let frames: Vec<_> = bytes
            .chunks(size)
            .map(|data| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(data))))
            .collect();
        let body = Body::new(StreamBody::new(stream::iter(frames).chain(stream::pending())));
        Intake::new(body, layer.clone(), Held::default(), is_stream)
    }

    /// All data until it waits.
    fn take(intake: &mut Intake) -> Result<Vec<u8>, Status> {
        let mut out = Vec::new();
        while let Some(frame) = tokio::task::unconstrained(intake.frame()).now_or_never() {
            out.extend(frame.unwrap()?.into_data().unwrap());
        }
        Ok(out)
    }

    #[tokio::test]
    async fn every_cut_gives_the_same_bytes_and_all_room_back() {
        let bytes = [message(K), message(0), message(33), message(K + 7)].concat();
        for size in [1, 2, 4, 5, 6, 1000, K - 1, K, K + 4, K + 5, K + 6, 2 * K, bytes.len()] {
            let all = K + 7 + PREFIX;
            let layer = IntakeLayer::new(all, K + 7);
            let mut intake = intake(&layer, true, &bytes, size);
            assert_eq!(take(&mut intake).unwrap(), bytes, "frames of {size}");
            assert_eq!(layer.room.available_permits(), all, "frames of {size}");
        }
    }

    #[tokio::test]
    async fn a_message_waits_for_room_and_its_end_does_not() {
        let whole = K + PREFIX;
        let layer = IntakeLayer::new(whole + 100, K);
        let bytes = [message(K), message(K)].concat();
        // A frame that holds the end of the first message and the beginning of the second.
        let cut = K - 100;
        let (mut one, mut two) =
            (intake(&layer, true, &bytes, cut), intake(&layer, true, &bytes, cut));
        one.frame().await.unwrap().unwrap();
        assert_eq!(take(&mut two).unwrap().len(), 0, "there is room for one");
        assert_eq!(take(&mut one).unwrap().len(), whole - cut, "the next one waits in its turn");
        assert_eq!(take(&mut two).unwrap().len(), whole);
        assert_eq!(take(&mut one).unwrap().len(), whole);
        assert_eq!(take(&mut two).unwrap().len(), whole);
    }

    #[tokio::test]
    async fn a_unary_message_keeps_its_room_until_it_is_let_go() {
        let layer = IntakeLayer::new(4 * K, 2 * K);
        let mut unary = intake(&layer, false, &message(K), 1000);
        let room = RequestRoom(unary.held.clone());
        take(&mut unary).unwrap();
        drop(unary);
        assert_eq!(layer.room.available_permits(), 3 * K - PREFIX);
        room.give_back();
        assert_eq!(layer.room.available_permits(), 4 * K);
        let two = [message(K), message(K)].concat();
        take(&mut intake(&layer, false, &two, K)).unwrap_err();
    }

    #[tokio::test]
    async fn a_message_above_the_bound_is_named() {
        let layer = IntakeLayer::new(205, 200);
        let error = take(&mut intake(&layer, true, &message(201), 7)).unwrap_err();
        assert!(error.message().contains("201"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_is_given_up() {
        let layer = IntakeLayer::new(2 * K, K);
        let mut slow = intake(&layer, true, &message(K)[..50], 50);
        slow.frame().await.unwrap().unwrap();
        let error = slow.frame().await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    }
}
