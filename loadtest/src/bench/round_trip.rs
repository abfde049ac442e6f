//! The floor of the way there and back: the same bytes to the same broker, answered before they are
//! durable.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use hdrhistogram::Histogram;
use levee_client::Client;
use levee_client::grpc::{Acks, AppendRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, Result};
use crate::recorder::histogram;

const TOPIC: &str = "round-trips";
/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends `batch` again and again, one at a time; microseconds.
pub async fn round_trips(
    address: &str,
    batch: Bytes,
    duration: Duration,
) -> Result<Histogram<u64>> {
    let client = Client::connect(address).await?;
    let settings = [("durability.class".to_owned(), "local".to_owned())];
    client.manage().create_topic(TOPIC, 1, settings.into()).await?;
    let (sends, requests) = mpsc::channel(1);
    let mut log = client.log();
    let opened = log.append_stream(ReceiverStream::new(requests)).await;
    let mut answers = opened.map_err(levee_client::Error::from)?.into_inner();
    let mut latency = histogram();
    let started = Instant::now();
    while started.elapsed() < duration {
        let request = AppendRequest {
            topic: TOPIC.to_owned(),
            batch: batch.clone(),
            acks: Acks::Leader.into(),
            ..AppendRequest::default()
        };
        let before = Instant::now();
        let gone = || Error::failed("the append stream ended, or gave no answer");
        sends.send(request).await.map_err(|_| gone())?;
        let answer = tokio::time::timeout(LIMIT, answers.next()).await.ok().flatten();
        let answer = answer.ok_or_else(gone)?.map_err(levee_client::Error::from)?;
        if let Some(detail) = answer.error {
            return Err(Error::failed(format!("an append was refused: {}", detail.message)));
        }
        latency.saturating_record(before.elapsed().as_micros() as u64);
    }
    Ok(latency)
}
