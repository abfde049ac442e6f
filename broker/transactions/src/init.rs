//! `InitProducerId`: who produces under a transactional id from now on.

use levee_kafka::ErrorCode;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::init_producer_id_response::InitProducerIdResponse;

use crate::coordinator::Transactions;
use crate::effects::{Answer, Effects, Refusal};
use crate::end::Epoch;
use crate::producer::Producer;
use crate::request::Asked;
use crate::transaction::{Outcome, Partitions, Standing, State, Transaction};

/// The first version with the producer's present id and epoch (KIP-360).
const RENEWS_FROM: i16 = 3;

/// The first version that knows PRODUCER_FENCED.
const FENCED_FROM: i16 = 4;

/// Most that a record takes beside the id and partitions.
pub(crate) const RECORD_BYTES: usize = 128;

/// Keys of the log have 16 bits for the length of an id.
const LONGEST_ID: usize = i16::MAX as usize;

impl Transactions {
    pub(crate) fn init_producer_id(
        &mut self,
        now_ms: i64,
        asked: Asked,
        request: InitProducerIdRequest,
        effects: &mut Effects,
    ) -> Option<Answer> {
        let mut answer = InitProducerIdResponse { producer_epoch: -1, ..Default::default() };
        match self.producer_for(now_ms, asked, &request, effects) {
            Ok(producer) => {
                answer.producer_id = producer.id;
                answer.producer_epoch = producer.epoch;
            }
            Err(Refusal::Late) => return None,
            Err(Refusal::Error(ErrorCode::ProducerFenced)) if asked.version < FENCED_FROM => {
                answer.error_code = ErrorCode::InvalidProducerEpoch.into();
            }
            Err(Refusal::Error(code)) => answer.error_code = code.into(),
        }
        Some(Answer::InitProducerId(answer))
    }

    fn producer_for(
        &mut self,
        now_ms: i64,
        asked: Asked,
        request: &InitProducerIdRequest,
        effects: &mut Effects,
    ) -> Result<Producer, Refusal> {
        let id = request.transactional_id.as_deref().unwrap_or_default();
        let renewed = renewed(request, asked.version)?;
        check_id(id)?;
        if id.len() + RECORD_BYTES > self.settings.max_record_bytes {
            return Err(ErrorCode::InvalidRequest.into());
        }
        let timeout_ms = request.transaction_timeout_ms;
        if timeout_ms <= 0 || timeout_ms > self.settings.max_timeout_ms {
            return Err(ErrorCode::InvalidTransactionTimeout.into());
        }
        let Some(transaction) = self.find(id).cloned() else {
            // An id that was forgotten after a long silence begins anew, whoever asks.
            let producer = Producer::first(self.take_producer_id()?);
            self.save(id, empty(producer, None, timeout_ms, now_ms), effects);
            self.came(id, asked);
            return Ok(producer);
        };
        let standing = renewed.map(|producer| transaction.standing(producer));
        if matches!(standing, Some(Standing::Fenced | Standing::Stranger)) {
            return Err(ErrorCode::ProducerFenced.into());
        }
        if transaction.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions.into());
        }
        let current = transaction.producer;
        let before = match standing {
            None => {
                self.in_time(id, asked)?;
                None
            }
            Some(Standing::Current) => Some(current),
            // A repetition: the answer was lost.
            Some(_) => transaction.before,
        };
        if transaction.state == State::Ongoing {
            let version = transaction.client_version;
            let epoch = Epoch::Bumped { before };
            self.decide(now_ms, id, Outcome::Abort, epoch, version, effects)?;
            self.came(id, asked);
            return Err(ErrorCode::ConcurrentTransactions.into());
        }
        let producer = match standing {
            Some(Standing::Before) => current,
            _ if current.is_exhausted() => Producer::first(self.take_producer_id()?),
            _ => current.bumped(),
        };
        let client_version = transaction.client_version;
        let empty = Transaction { client_version, ..empty(producer, before, timeout_ms, now_ms) };
        self.save(id, empty, effects);
        if standing != Some(Standing::Before) {
            self.came(id, asked);
        }
        Ok(producer)
    }
}

pub(crate) fn check_id(id: &str) -> Result<(), ErrorCode> {
    if id.is_empty() || id.len() > LONGEST_ID { Err(ErrorCode::InvalidRequest) } else { Ok(()) }
}

/// The producer that asks to be renewed.
fn renewed(request: &InitProducerIdRequest, version: i16) -> Result<Option<Producer>, ErrorCode> {
    if version < RENEWS_FROM {
        return Ok(None);
    }
    match (request.producer_id, request.producer_epoch) {
        (-1, -1) => Ok(None),
        (-1, _) | (_, -1) => Err(ErrorCode::InvalidRequest),
        (id, epoch) => Ok(Some(Producer { id, epoch })),
    }
}

fn empty(
    producer: Producer,
    before: Option<Producer>,
    timeout_ms: i32,
    now_ms: i64,
) -> Transaction {
    Transaction {
        producer,
        before,
        next_id: None,
        timeout_ms,
        state: State::Empty,
        partitions: Partitions::new(),
        started_ms: -1,
        updated_ms: now_ms,
        client_version: 0,
    }
}
