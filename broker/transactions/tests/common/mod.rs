//! A coordinator whose log is durable at once, and requests in few words.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use levee_kafka::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use levee_kafka::messages::describe_transactions_request::DescribeTransactionsRequest;
use levee_kafka::messages::describe_transactions_response::TransactionState;
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_transactions::{
    Answer, Asked, Connection, Effects, Markers, Partitions, Prepare, Producer, Request, Settings,
    Transactions,
};

pub const TIMEOUT_MS: i32 = 60_000;

/// What came back: the producer, or a code, or nothing but a closed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    Producer(Producer),
    Code(ErrorCode),
    Disconnect,
}

pub struct Coordinator {
    pub state: Transactions,
    pub settings: Settings,
    pub log: Vec<(Bytes, Option<Bytes>)>,
    /// With their offsets.
    pub markers: Vec<Markers>,
    pub now_ms: i64,
    pub epoch: i32,
    pub connections: Connection,
    pub next_id: i64,
}

pub fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id, epoch }
}

pub fn partitions(of: &[(&str, &[i32])]) -> Partitions {
    of.iter().map(|(topic, ids)| (topic.to_string(), ids.iter().copied().collect())).collect()
}

impl Coordinator {
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let mut state = Transactions::new(settings.clone(), 7, 0);
        state.give_producer_id(1000);
        let (log, markers) = (Vec::new(), Vec::new());
        let (now_ms, epoch, connections, next_id) = (1_000_000, 7, 0, 1001);
        Self { state, settings, log, markers, now_ms, epoch, connections, next_id }
    }

    /// What follows is durable at once.
    pub fn follow(&mut self, effects: Effects) -> Vec<Answer> {
        let base = self.log.len();
        self.log.extend(effects.records);
        for mut markers in effects.markers {
            if let Prepare::Record(index) = markers.prepare {
                markers.prepare = Prepare::Offset((base + index) as i64);
            }
            self.markers.push(markers);
        }
        effects.answers.into_iter().map(|(_, answer)| answer).collect()
    }

    pub fn ask_over(&mut self, connection: Connection, version: i16, request: Request) -> Answer {
        if self.state.producer_ids_wanted() > 7 {
            self.state.give_producer_id(self.next_id);
            self.next_id += 1;
        }
        self.ask_without_ids(connection, version, request)
    }

    pub fn ask_without_ids(
        &mut self,
        connection: Connection,
        version: i16,
        request: Request,
    ) -> Answer {
        let asked = Asked { token: 42, version, connection };
        let effects = self.state.request(self.now_ms, asked, request);
        assert_eq!(effects.answers.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [42]);
        self.follow(effects).remove(0)
    }

    pub fn ask(&mut self, version: i16, request: Request) -> Answer {
        self.ask_over(self.connections + 1, version, request)
    }

    pub fn tick(&mut self) {
        let effects = self.state.tick(self.now_ms);
        assert!(self.follow(effects).is_empty());
    }

    /// All markers that are asked for are written.
    pub fn write_markers(&mut self) {
        for markers in std::mem::take(&mut self.markers) {
            for (topic, ids) in &markers.partitions {
                let ids: Vec<i32> = ids.iter().copied().collect();
                let effects = self.state.written(self.now_ms, markers.decision, topic, &ids);
                self.follow(effects);
            }
        }
    }

    /// The process dies; another life reads the log.
    pub fn crash(&mut self) {
        self.epoch += 1;
        self.markers.clear();
        let mut state = Transactions::new(self.settings.clone(), self.epoch, self.connections);
        for (offset, (key, value)) in self.log.iter().enumerate() {
            state.replay(offset as i64, key.clone(), value.clone()).unwrap();
        }
        self.state = state;
        let effects = self.state.resume(self.now_ms);
        self.follow(effects);
    }

    /// The log keeps only the last record of each key.
    pub fn compact_and_crash(&mut self) {
        self.log = self.state.records().map(|(key, value)| (key, Some(value))).collect();
        self.crash();
    }

    pub fn init(&mut self, id: &str) -> Got {
        self.init_as(id, 4, None)
    }

    pub fn init_as(&mut self, id: &str, version: i16, renews: Option<Producer>) -> Got {
        let got = self.ask(version, init(id, renews));
        self.got(got)
    }

    /// Two versions of the protocol: 3 for clients, 5 for brokers.
    pub fn add(&mut self, version: i16, id: &str, by: Producer, to: &[(&str, &[i32])]) -> Got {
        let request = if version < 4 { add(id, by, to) } else { add_for(id, by, to, false) };
        let got = self.ask(version, request);
        self.got(got)
    }

    pub fn verify(&mut self, version: i16, id: &str, by: Producer, to: &[(&str, &[i32])]) -> Got {
        let got = self.ask(version, add_for(id, by, to, true));
        self.got(got)
    }

    pub fn end(&mut self, version: i16, id: &str, by: Producer, commit: bool) -> Got {
        let got = self.ask(version, end(id, by, commit));
        self.got(got)
    }

    pub fn describe(&mut self, id: &str) -> TransactionState {
        let request = DescribeTransactionsRequest { transactional_ids: vec![id.into()] };
        match self.ask(0, Request::DescribeTransactions(request)) {
            Answer::DescribeTransactions(mut answer) => answer.transaction_states.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub fn state_of(&mut self, id: &str) -> String {
        self.describe(id).transaction_state
    }

    /// Of answers with several codes: the first that is one.
    pub fn got(&mut self, answer: Answer) -> Got {
        got(&answer)
    }
}

pub fn got(answer: &Answer) -> Got {
    let code = |code: i16| Got::Code(code_of(code));
    match answer {
        Answer::InitProducerId(answer) if answer.error_code == 0 => {
            Got::Producer(producer(answer.producer_id, answer.producer_epoch))
        }
        Answer::InitProducerId(answer) => {
            assert_eq!((answer.producer_id, answer.producer_epoch), (-1, -1));
            code(answer.error_code)
        }
        Answer::EndTxn(answer) if answer.error_code == 0 => {
            Got::Producer(producer(answer.producer_id, answer.producer_epoch))
        }
        Answer::EndTxn(answer) => {
            assert_eq!((answer.producer_id, answer.producer_epoch), (-1, -1));
            code(answer.error_code)
        }
        Answer::AddOffsetsToTxn(answer) => code(answer.error_code),
        Answer::AddPartitionsToTxn(answer) => {
            let batched = answer.results_by_transaction.iter().flat_map(|of| &of.topic_results);
            let all = answer.results_by_topic_v3_and_below.iter().chain(batched);
            let mut codes =
                all.flat_map(|of| &of.results_by_partition).map(|of| of.partition_error_code);
            code(codes.find(|code| *code != 0).unwrap_or_default())
        }
        Answer::Disconnect => Got::Disconnect,
        other => panic!("{other:?}"),
    }
}

fn code_of(code: i16) -> ErrorCode {
    use ErrorCode as E;
    let known = [
        E::None,
        E::UnknownServerError,
        E::CoordinatorLoadInProgress,
        E::InvalidRequest,
        E::InvalidProducerEpoch,
        E::InvalidTxnState,
        E::InvalidProducerIdMapping,
        E::InvalidTransactionTimeout,
        E::ConcurrentTransactions,
        E::ProducerFenced,
        E::TransactionAbortable,
    ];
    known.into_iter().find(|known| *known as i16 == code).unwrap_or_else(|| panic!("code {code}"))
}

pub fn init(id: &str, renews: Option<Producer>) -> Request {
    let renews = renews.unwrap_or(producer(-1, -1));
    Request::InitProducerId(InitProducerIdRequest {
        transactional_id: Some(id.into()),
        transaction_timeout_ms: TIMEOUT_MS,
        producer_id: renews.id,
        producer_epoch: renews.epoch,
        ..Default::default()
    })
}

fn topics(to: &[(&str, &[i32])]) -> Vec<AddPartitionsToTxnTopic> {
    let topic = |(name, partitions): &(&str, &[i32])| AddPartitionsToTxnTopic {
        name: name.to_string(),
        partitions: partitions.to_vec(),
    };
    to.iter().map(topic).collect()
}

pub fn add(id: &str, by: Producer, to: &[(&str, &[i32])]) -> Request {
    Request::AddPartitionsToTxn(AddPartitionsToTxnRequest {
        v3_and_below_transactional_id: id.into(),
        v3_and_below_producer_id: by.id,
        v3_and_below_producer_epoch: by.epoch,
        v3_and_below_topics: topics(to),
        ..Default::default()
    })
}

pub fn add_for(id: &str, by: Producer, to: &[(&str, &[i32])], verify_only: bool) -> Request {
    let transaction = AddPartitionsToTxnTransaction {
        transactional_id: id.into(),
        producer_id: by.id,
        producer_epoch: by.epoch,
        verify_only,
        topics: topics(to),
    };
    Request::AddPartitionsToTxn(AddPartitionsToTxnRequest {
        transactions: vec![transaction],
        ..Default::default()
    })
}

pub fn add_offsets(id: &str, by: Producer, partition: i32) -> Request {
    let request = AddOffsetsToTxnRequest {
        transactional_id: id.into(),
        producer_id: by.id,
        producer_epoch: by.epoch,
        group_id: "group".into(),
    };
    Request::AddOffsetsToTxn { request, topic: "__consumer_offsets".into(), partition }
}

pub fn end(id: &str, by: Producer, committed: bool) -> Request {
    Request::EndTxn(EndTxnRequest {
        transactional_id: id.into(),
        producer_id: by.id,
        producer_epoch: by.epoch,
        committed,
    })
}
