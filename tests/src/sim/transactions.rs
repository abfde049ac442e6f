//! Transactions of several producers on one partition, that remember how each of them ended; and a
//! reader of committed records that filters as Kafka's consumer does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_broker::error::Error;
use levee_broker::fetch::{Fetch, Fetched, Isolation};
use levee_broker::node::Node;
use levee_broker::partition::EndTxn;
use levee_broker::produce::Acks;
use levee_proto::record::Marker;
use levee_proto::record::batch::check_run;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};
use parking_lot::Mutex;

use super::Cluster;

const LIMIT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub struct TxnLoad {
    cluster: Cluster,
    topic: &'static str,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Offsets of records by how their transaction ended, or whether it has not.
    committed: BTreeSet<u64>,
    aborted: BTreeSet<u64>,
    open: BTreeSet<u64>,
    ended: usize,
    /// Producers that still run.
    running: usize,
    stop: bool,
}

impl TxnLoad {
    /// `producers` run transactions, one after the other; one more sends records without.
    pub fn start(cluster: &Cluster, topic: &'static str, producers: i64) -> Self {
        let load = Self { cluster: cluster.clone(), topic, inner: Arc::default() };
        load.inner.lock().running = producers as usize + 1;
        for producer in 0..=producers {
            let load = load.clone();
            tokio::spawn(async move {
                match producer {
                    0 => load.run_plain().await,
                    id => load.run(100 + id).await,
                }
                load.inner.lock().running -= 1;
            });
        }
        load
    }

    async fn run(&self, producer_id: i64) {
        let sim = self.cluster.sim.clone();
        let (mut epoch, mut sequence) = (0, 0);
        while !self.inner.lock().stop {
            let mut offsets = Vec::new();
            for _ in 0..1 + sim.below(4) {
                let records = 1 + sim.below(3) as u32;
                let stamp =
                    ProducerStamp { producer_id, producer_epoch: epoch, base_sequence: sequence };
                offsets.extend(self.append(stamp, records, true).await);
                sequence += records as i32;
                self.inner.lock().open.extend(offsets.iter().copied());
                pause(sim.below(300)).await;
            }
            // Now and then one stays open for long.
            pause(if sim.one_in(10) { sim.below(20_000) } else { sim.below(500) }).await;
            let commit = sim.one_in(2);
            (epoch, sequence) = (epoch + 1, 0);
            self.end(producer_id, epoch, commit).await;
            let mut inner = self.inner.lock();
            inner.ended += 1;
            for offset in offsets {
                inner.open.remove(&offset);
                match commit {
                    true => inner.committed.insert(offset),
                    false => inner.aborted.insert(offset),
                };
            }
        }
    }

    async fn run_plain(&self) {
        let mut sequence = 0;
        while !self.inner.lock().stop {
            let stamp =
                ProducerStamp { producer_id: 99, producer_epoch: 0, base_sequence: sequence };
            let offsets = self.append(stamp, 1, false).await;
            sequence += 1;
            self.inner.lock().committed.extend(offsets);
            pause(self.cluster.sim.below(400)).await;
        }
    }

    /// One batch, retried until it is acknowledged: its offsets.
    pub async fn append(
        &self,
        stamp: ProducerStamp,
        records: u32,
        transactional: bool,
    ) -> std::ops::Range<u64> {
        let batch = self.batch(stamp, records, transactional);
        let topic = self.topic;
        let appended = self.retried(move |node| {
            let batch = batch.clone();
            async move {
                let pending = node.append(topic, 0, batch, Acks::All, LIMIT).await?;
                pending.done(&node).await
            }
        });
        let appended = appended.await;
        assert_eq!(appended.end_offset - appended.base_offset, u64::from(records));
        appended.base_offset..appended.end_offset
    }

    /// The marker of version 2, retried until it is acknowledged; one that was written and not
    /// acknowledged is sent again.
    pub async fn end(&self, producer_id: i64, producer_epoch: i16, commit: bool) {
        let (topic, coordinator_epoch, transaction_version) = (self.topic, 3, 2);
        let end =
            EndTxn { producer_id, producer_epoch, coordinator_epoch, commit, transaction_version };
        self.retried(move |node| async move {
            let pending = node.end_transaction(topic, 0, &end, LIMIT).await?;
            pending.done(&node).await
        })
        .await;
    }

    fn batch(&self, stamp: ProducerStamp, records: u32, transactional: bool) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        if transactional {
            builder = builder.transactional();
        }
        for _ in 0..records {
            let value = Some(vec![7; 20 + self.cluster.sim.below(300) as usize].into());
            let timestamp_ms = 1_800_000_000_000 + self.cluster.sim.elapsed_ms() as i64;
            builder.push(&RecordData { timestamp_ms, value, ..RecordData::default() });
        }
        builder.build(Some(stamp))
    }

    async fn retried<T, F>(&self, request: impl Fn(Arc<Node>) -> F + Clone + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        loop {
            let asked = self.cluster.ask(request.clone());
            match tokio::time::timeout(Duration::from_secs(10), asked).await {
                Ok(Some(Ok(done))) => return done,
                Ok(Some(Err(error))) if !error.retriable => panic!("{error}"),
                Ok(Some(Err(_)) | None) | Err(_) => pause(50).await,
            }
        }
    }

    /// Waits for so many more transactions to end, in virtual time.
    pub async fn progress(&self, more: usize) {
        let goal = self.inner.lock().ended + more;
        for _ in 0..200_000 {
            if self.inner.lock().ended >= goal {
                return;
            }
            pause(10).await;
        }
        panic!("no {more} transactions ended in time");
    }

    /// Ends when all of its transactions have.
    pub async fn stop(&self) {
        self.inner.lock().stop = true;
        for _ in 0..200_000 {
            if self.inner.lock().running == 0 {
                return;
            }
            pause(10).await;
        }
        panic!("transactions did not end in time");
    }

    /// Readers of both kinds, from the start and from some places between: those of committed
    /// records see what was committed, all of it, and nothing else.
    pub async fn verify(&self) {
        let (committed, all, is_over) = {
            let inner = self.inner.lock();
            let all = [&inner.committed, &inner.aborted, &inner.open];
            let all: BTreeSet<u64> = all.into_iter().flatten().copied().collect();
            (inner.committed.clone(), all, inner.running == 0)
        };
        let seen = self.read(0, 1 << 16, Isolation::ReadUncommitted).await;
        let stable = self.read(0, 1 << 16, Isolation::ReadCommitted).await;
        let gone: Vec<&u64> = all.difference(&seen.offsets).collect();
        assert!(gone.is_empty(), "acknowledged and gone: {gone:?}");
        let wrong: Vec<u64> =
            stable.offsets.intersection(&self.inner.lock().aborted).copied().collect();
        assert!(wrong.is_empty(), "aborted and read: {wrong:?}");
        let below = |offset: &&u64| **offset < stable.end;
        let lost: Vec<&u64> = committed.difference(&stable.offsets).filter(below).collect();
        assert!(lost.is_empty(), "committed and not read: {lost:?}, stable to {}", stable.end);
        if is_over {
            assert_eq!(stable.offsets, committed);
        }
        for _ in 0..5 {
            let from = self.cluster.sim.below(stable.end + 1);
            let bytes = 1 + self.cluster.sim.below(3000) as usize;
            let again = self.read(from, bytes, Isolation::ReadCommitted).await;
            let below = again.end.min(stable.end);
            assert!(
                again.offsets.range(..below).eq(stable.offsets.range(from..below)),
                "from {from}, {bytes} bytes at a time"
            );
        }
    }

    async fn read(&self, from: u64, max_bytes: usize, isolation: Isolation) -> Read {
        let mut read = Read { offsets: BTreeSet::new(), end: from };
        loop {
            let (topic, offset) = (self.topic, read.end);
            let wait = Duration::ZERO;
            let fetch = Fetch { offset, max_bytes, min_bytes: 0, wait, isolation };
            let fetched = self.retried(move |node| {
                let fetch = fetch.clone();
                async move { node.fetch(&*node.partition(topic, 0)?, &fetch).await }
            });
            let fetched = fetched.await;
            read.take(&fetched, offset);
            let end = match isolation {
                Isolation::ReadUncommitted => fetched.high_watermark,
                Isolation::ReadCommitted => fetched.last_stable_offset,
            };
            assert!(fetched.next_offset <= end.max(offset), "{fetched:?}");
            if fetched.next_offset >= end {
                return read;
            }
            assert!(fetched.next_offset > offset, "no progress at {offset}");
            read.end = fetched.next_offset;
        }
    }
}

/// What a reader saw, and up to where.
struct Read {
    offsets: BTreeSet<u64>,
    end: u64,
}

impl Read {
    /// As Kafka's consumer: a producer's batches count as aborted from the first offset of an
    /// aborted transaction on, until its marker.
    fn take(&mut self, fetched: &Fetched, from: u64) {
        assert!(fetched.aborted.is_sorted_by_key(|txn| txn.first_offset));
        let (mut aborted, mut coming) = (BTreeSet::new(), fetched.aborted.iter().peekable());
        let batches = fetched.batches.clone().into_bytes();
        let walked = check_run(&batches, |at, header| {
            let last = header.end_offset() - 1;
            while let Some(txn) = coming.next_if(|txn| txn.first_offset <= last) {
                aborted.insert(txn.producer_id);
            }
            let batch = batches.slice(at..at + header.bytes as usize);
            if header.is_control() {
                let marker = Marker::of(&batch).unwrap_or_default();
                if marker.is_some_and(|marker| !marker.commit) {
                    aborted.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && aborted.contains(&header.producer_id)) {
                let records = decode_records(&batch).expect("records");
                let offsets = records.iter().map(|record| record.offset);
                self.offsets.extend(offsets.filter(|offset| *offset >= from));
            }
            true
        });
        assert_eq!(walked.expect("whole batches"), fetched.batches.len());
        self.end = fetched.next_offset;
    }
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
