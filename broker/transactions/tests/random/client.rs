//! A producer as clients build it: what it asks next, what an answer makes of it.

use levee_kafka::ErrorCode as E;
use levee_kafka::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_transactions::{Answer, Producer, Request};

use crate::Rng;
use crate::partitions::Work;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// To be somebody; with its present name if it has one.
    Init,
    Add(i32),
    End {
        commit: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) transactional_id: String,
    /// With an epoch for each transaction.
    pub(crate) bumping: bool,
    pub(crate) producer: Option<Producer>,
    pub(crate) work: Work,
    pub(crate) added: Vec<i32>,
    pub(crate) wants: Option<Wants>,
    /// The request whose answer is awaited.
    pub(crate) waits_for: Option<u64>,
    pub(crate) connection: u64,
    pub(crate) dead: bool,
}

/// What a client may conclude from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    Nothing,
    /// To be asked again; over another connection.
    Again {
        reconnect: bool,
    },
    Added(i32),
    Ended {
        commit: bool,
    },
    /// The producer is over.
    Fatal {
        wanted: Wants,
    },
}

impl Client {
    pub(crate) fn choose(&mut self, rng: &mut Rng) {
        let wants = match self.producer {
            None => Wants::Init,
            Some(_) if self.added.is_empty() => match rng.below(20) {
                0 => Wants::Init,
                1 if self.bumping => Wants::End { commit: false },
                _ => Wants::Add(rng.below(4) as i32),
            },
            Some(_) => match rng.below(10) {
                // In the middle of a transaction, which this aborts.
                0 if self.bumping => Wants::Init,
                0..4 => Wants::Add(rng.below(4) as i32),
                4..8 => Wants::End { commit: true },
                _ => Wants::End { commit: false },
            },
        };
        self.wants = Some(wants);
    }

    /// The request, its version, and whether a broker sends it.
    pub(crate) fn request(&self, wants: Wants) -> (Request, i16, bool) {
        let id = self.transactional_id.clone();
        let by = self.producer.unwrap_or(Producer { id: -1, epoch: -1 });
        match wants {
            Wants::Init => {
                let request = InitProducerIdRequest {
                    transactional_id: Some(id),
                    transaction_timeout_ms: 20_000,
                    producer_id: by.id,
                    producer_epoch: by.epoch,
                    ..Default::default()
                };
                (Request::InitProducerId(request), 4, false)
            }
            Wants::Add(partition) => {
                let topic =
                    AddPartitionsToTxnTopic { name: "t".into(), partitions: vec![partition] };
                let topics = vec![topic];
                let request = if self.bumping {
                    let (producer_id, producer_epoch) = (by.id, by.epoch);
                    AddPartitionsToTxnRequest {
                        transactions: vec![AddPartitionsToTxnTransaction {
                            transactional_id: id,
                            producer_id,
                            producer_epoch,
                            verify_only: false,
                            topics,
                        }],
                        ..Default::default()
                    }
                } else {
                    AddPartitionsToTxnRequest {
                        v3_and_below_transactional_id: id,
                        v3_and_below_producer_id: by.id,
                        v3_and_below_producer_epoch: by.epoch,
                        v3_and_below_topics: topics,
                        ..Default::default()
                    }
                };
                let version = if self.bumping { 5 } else { 3 };
                (Request::AddPartitionsToTxn(request), version, self.bumping)
            }
            Wants::End { commit } => {
                let request = EndTxnRequest {
                    transactional_id: id,
                    producer_id: by.id,
                    producer_epoch: by.epoch,
                    committed: commit,
                };
                (Request::EndTxn(request), if self.bumping { 5 } else { 4 }, false)
            }
        }
    }

    pub(crate) fn learn(&mut self, answer: &Answer) -> Learned {
        self.waits_for = None;
        let Some(wants) = self.wants else { return Learned::Nothing };
        let code = match answer {
            Answer::Disconnect => return Learned::Again { reconnect: true },
            Answer::InitProducerId(answer) => answer.error_code,
            Answer::EndTxn(answer) => answer.error_code,
            Answer::AddPartitionsToTxn(answer) => {
                let batched = answer.results_by_transaction.iter().flat_map(|of| &of.topic_results);
                let mut all = answer.results_by_topic_v3_and_below.iter().chain(batched);
                all.next().unwrap().results_by_partition[0].partition_error_code
            }
            other => panic!("{other:?}"),
        };
        if code == E::ConcurrentTransactions as i16 || code == E::CoordinatorLoadInProgress as i16 {
            return Learned::Again { reconnect: false };
        }
        if code != 0 {
            self.dead = true;
            return Learned::Fatal { wanted: wants };
        }
        self.wants = None;
        match answer {
            Answer::InitProducerId(answer) => {
                let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                self.producer = Some(Producer { id, epoch });
                // What it had begun is aborted.
                let aborted = !self.added.is_empty();
                self.added.clear();
                if aborted { Learned::Ended { commit: false } } else { Learned::Nothing }
            }
            Answer::EndTxn(answer) => {
                if self.bumping {
                    let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                    self.producer = Some(Producer { id, epoch });
                }
                self.added.clear();
                let Wants::End { commit } = wants else { panic!("{wants:?}") };
                Learned::Ended { commit }
            }
            _ => {
                let Wants::Add(partition) = wants else { panic!("{wants:?}") };
                self.added.push(partition);
                Learned::Added(partition)
            }
        }
    }
}
