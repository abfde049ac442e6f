//! Transactions: records and offsets that count together, or not at all.
//!
//! Owns: the name of the producer (its epoch changes with every transaction), beginning and ending.
//! Does not own: how records are delivered (`producer`).
//!
//! What is answered is durable. A request whose answer is lost is repeated: each ends one
//! transaction only, the one whose epoch it names.

use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::{
    CommitTransactionOffsetsRequest, EndTransactionRequest, ErrorCode, InitTransactionsRequest,
    TicketRequest,
};
use levee_proto::record::records::RecordData;

use crate::admin::within;
use crate::backoff::insist;
use crate::connection::Client;
use crate::consumer::Membership;
use crate::error::{Error, Result};
use crate::offsets::{Offsets, all_done, to_wire};
use crate::producer::{Acks, Producer, ProducerConfig, ProducerId, Ticket, Together};

/// How transactions are made.
#[derive(Debug, Clone)]
pub struct TransactionConfig {
    /// A transaction that is open for longer is aborted by the broker; at most its
    /// transaction.max.timeout. Default 60 s.
    pub timeout: Duration,
    /// How long beginning and ending may take, tries included. Default 120 s.
    pub retry_for: Duration,
    /// How records are sent. `idempotent` and `acks` are what transactions need, whatever is said
    /// here.
    pub producer: ProducerConfig,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            retry_for: Duration::from_secs(120),
            producer: ProducerConfig::default(),
        }
    }
}

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(35);
/// How long to go on ending what nobody waits for.
const ASIDE_LIMIT: Duration = Duration::from_secs(30);

/// The producer of a transactional id. A newer one of the same id fences it: everything that it
/// does then fails with `PRODUCER_FENCED`, and what it left open is aborted.
///
/// ```no_run
/// # async fn example() -> Result<(), levee_client::Error> {
/// use levee_client::{Client, ConsumerConfig, RecordData, TransactionConfig};
///
/// let client = Client::connect("localhost").await?;
/// let config = ConsumerConfig { auto_commit: None, ..ConsumerConfig::new("pricing", ["orders"]) };
/// let mut orders = client.consumer(config).await?;
/// let mut producer = client.transactional_producer("pricing-1", TransactionConfig::default()).await?;
/// loop {
///     // Exactly once: the prices and the place in the orders count together.
///     let batch = orders.records().await?;
///     let mut transaction = producer.begin().await?;
///     for order in &batch.records {
///         let price = RecordData { key: order.data.key.clone(), ..RecordData::default() };
///         transaction.send("prices", None, price).await?;
///     }
///     transaction.send_offsets(&orders.membership(), &batch.next()).await?;
///     transaction.commit().await?;
/// }
/// # }
/// ```
pub struct TransactionalProducer {
    client: Client,
    id: Arc<str>,
    config: TransactionConfig,
    producer: ProducerId,
    /// What is to be ended before anything else: a transaction that was dropped, or one whose end
    /// got no answer (true: to be committed).
    to_end: Option<bool>,
}

impl Client {
    /// Becomes the producer of this id: the one before is fenced.
    pub async fn transactional_producer(
        &self,
        id: &str,
        config: TransactionConfig,
    ) -> Result<TransactionalProducer> {
        TransactionalProducer::open(self.clone(), id, config).await
    }
}

impl TransactionalProducer {
    async fn open(client: Client, id: &str, config: TransactionConfig) -> Result<Self> {
        if id.is_empty() {
            return Err(Error::invalid("the transactional id is empty"));
        }
        if config.timeout < Duration::from_millis(1) {
            return Err(Error::invalid("the timeout of transactions must not be zero"));
        }
        let producer =
            ProducerConfig { idempotent: true, acks: Acks::All, ..config.producer.clone() };
        producer.check()?;
        let config = TransactionConfig { producer, ..config };
        let producer = insist(config.retry_for, || init(&client, id, config.timeout)).await?;
        Ok(Self { client, id: id.into(), config, producer, to_end: None })
    }

    /// Begins a transaction. One that was dropped without an end is aborted first; one whose
    /// `commit` had no answer is committed first.
    pub async fn begin(&mut self) -> Result<Transaction<'_>> {
        if let Some(commit) = self.to_end {
            self.end(commit).await?;
        }
        let together = Together::new(self.id.clone());
        let (client, config) = (self.client.clone(), self.config.producer.clone());
        let producer = Producer::in_transaction(client, config, self.producer, together);
        Ok(Transaction { owner: self, producer, has_offsets: false, has_ended: false })
    }

    /// Ends what is open, and takes the name of the next transaction.
    async fn end(&mut self, commit: bool) -> Result<()> {
        self.to_end = Some(commit);
        let request = self.request(commit);
        match insist(self.config.retry_for, || end(&self.client, &request)).await {
            Ok(next) => {
                (self.producer, self.to_end) = (next, None);
                Ok(())
            }
            // It ended by itself, with the other outcome: there is nothing to commit any more.
            Err(error) if error.code == ErrorCode::InvalidTxnState && commit => {
                self.to_end = Some(false);
                Err(error)
            }
            Err(error) => Err(error.maybe_written(commit)),
        }
    }

    fn request(&self, commit: bool) -> EndTransactionRequest {
        EndTransactionRequest {
            transactional_id: self.id.to_string(),
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch.unsigned_abs().into(),
            commit,
        }
    }

    /// Ends in the background what nobody waits for: until then readers and the group's offsets
    /// would wait. `begin` repeats it, and gets the same answer.
    fn end_aside(&self) {
        let Some(commit) = self.to_end else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, request) = (self.client.clone(), self.request(commit));
        let limit = self.config.retry_for.min(ASIDE_LIMIT);
        runtime.spawn(async move { insist(limit, || end(&client, &request)).await.map(drop) });
    }
}

/// A transaction that is open. Dropping it aborts it.
pub struct Transaction<'a> {
    owner: &'a mut TransactionalProducer,
    producer: Producer,
    has_offsets: bool,
    has_ended: bool,
}

impl Transaction<'_> {
    /// As [`Producer::send`]. Readers of committed records see it when the transaction is
    /// committed.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<u32>,
        record: RecordData,
    ) -> Result<Ticket> {
        self.producer.send(topic, partition, record).await
    }

    /// Offsets of a group that count when the transaction is committed. `member`: who read the
    /// records, so that one that has lost its partitions commits nothing.
    pub async fn send_offsets(&mut self, member: &Membership, offsets: &Offsets) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        if member.epoch.is_none() && !member.member_id.is_empty() {
            return Err(Error::membership_lost(&member.group));
        }
        let request = CommitTransactionOffsetsRequest {
            transactional_id: self.owner.id.to_string(),
            producer_id: self.owner.producer.id,
            producer_epoch: self.owner.producer.epoch.unsigned_abs().into(),
            group: member.group.to_string(),
            member_id: member.member_id.clone(),
            member_epoch: member.epoch,
            instance_id: member.instance_id.clone(),
            offsets: to_wire(offsets, &member.topic_ids),
        };
        // Also where the answer says no: some of it may be there.
        self.has_offsets = true;
        let (client, request) = (&self.owner.client, &request);
        insist(self.owner.config.retry_for, || async move {
            let mut transactions = client.transactions();
            let asked = transactions.commit_transaction_offsets(request.clone());
            all_done(within(TRY_LIMIT, "committing offsets", asked).await?.failed)
        })
        .await
    }

    /// Waits for the records that were sent, and commits. Where it fails nothing of the transaction
    /// counts, unless the error says `may_be_written`: then the client goes on to commit it, and who
    /// consumes learns from the offsets that were committed ([`crate::Consumer::rewind`]) what became
    /// of it.
    pub async fn commit(mut self) -> Result<()> {
        if let Err(error) = self.producer.settle().await {
            let _ = self.finish(false).await;
            return Err(error.of_unsent().at("the transaction is not committed"));
        }
        self.finish(true).await
    }

    /// Nothing of it counts. Who consumed for it goes back: [`crate::Consumer::rewind`].
    pub async fn abort(mut self) -> Result<()> {
        self.finish(false).await
    }

    async fn finish(&mut self, commit: bool) -> Result<()> {
        self.has_ended = true;
        self.producer.abort(&Error::aborted());
        match self.is_used() {
            true => self.owner.end(commit).await,
            // The broker knows nothing of it.
            false => Ok(()),
        }
    }

    fn is_used(&self) -> bool {
        self.has_offsets || self.producer.is_used()
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.producer.abort(&Error::aborted());
            if self.is_used() {
                self.owner.to_end = Some(false);
            }
        }
        self.owner.end_aside();
    }
}

/// Each try has a ticket of its own: one that was given up cannot fence the next one later.
async fn init(client: &Client, id: &str, timeout: Duration) -> Result<ProducerId> {
    let what = "getting a transactional producer";
    let mut transactions = client.transactions();
    let ticket = within(TRY_LIMIT, what, transactions.ticket(TicketRequest {})).await?.ticket;
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let request = InitTransactionsRequest { transactional_id: id.to_owned(), timeout_ms, ticket };
    let got = within(TRY_LIMIT, what, transactions.init_transactions(request)).await?;
    name(got.producer_id, got.producer_epoch)
}

async fn end(client: &Client, request: &EndTransactionRequest) -> Result<ProducerId> {
    let mut transactions = client.transactions();
    let asked = transactions.end_transaction(request.clone());
    let next = within(TRY_LIMIT, "ending the transaction", asked).await?;
    name(next.producer_id, next.producer_epoch)
}

fn name(id: i64, epoch: u32) -> Result<ProducerId> {
    let wrong = |_| Error::connection(format!("the broker gave epoch {epoch}, which there is not"));
    Ok(ProducerId { id, epoch: i16::try_from(epoch).map_err(wrong)? })
}
