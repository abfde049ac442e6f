//! `EndTxn`, and how every transaction ends: a Prepare record decides, markers follow.

use levee_kafka::ErrorCode;
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::end_txn_response::EndTxnResponse;

use crate::coordinator::Transactions;
use crate::effects::{Answer, Effects, Prepare, Refusal};
use crate::init::check_id;
use crate::producer::Producer;
use crate::request::Asked;
use crate::transaction::{Outcome, Standing, State, Transaction};

/// The first version with an epoch for each transaction (KIP-890, transaction.version 2).
const BUMPS_FROM: i16 = 5;

/// The first version that knows PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;

/// What the end of a transaction does to the epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Epoch {
    Kept,
    /// `before`: the producer that may go on by its old name.
    Bumped {
        before: Option<Producer>,
    },
}

impl Transactions {
    pub(crate) fn end_txn(
        &mut self,
        now_ms: i64,
        asked: Asked,
        request: EndTxnRequest,
        effects: &mut Effects,
    ) -> Option<Answer> {
        let ended = match asked.version {
            version if version < BUMPS_FROM => self.end_old(now_ms, asked, &request, effects),
            _ => self.end_bumping(now_ms, &request, effects),
        };
        let mut answer = EndTxnResponse::default();
        match ended {
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
        Some(Answer::EndTxn(answer))
    }

    /// Clients whose transactions all have one epoch.
    fn end_old(
        &mut self,
        now_ms: i64,
        asked: Asked,
        request: &EndTxnRequest,
        effects: &mut Effects,
    ) -> Result<Producer, Refusal> {
        let id = &*request.transactional_id;
        let (transaction, standing) = self.asked_to_end(request)?;
        let (state, producer) = (transaction.state, transaction.producer);
        let reached = transaction.outcome() == Some(outcome(request));
        match standing {
            Standing::Before => return Err(ErrorCode::ProducerFenced.into()),
            Standing::Next => return Err(ErrorCode::ConcurrentTransactions.into()),
            _ => {}
        }
        self.in_time(id, asked)?;
        match state {
            State::Ongoing => {
                let outcome = outcome(request);
                let next = self.decide(now_ms, id, outcome, Epoch::Kept, 0, effects)?;
                self.came(id, asked);
                Ok(next)
            }
            _ if !reached => Err(ErrorCode::InvalidTxnState.into()),
            state if state.is_prepared() => Err(ErrorCode::ConcurrentTransactions.into()),
            _ => Ok(producer),
        }
    }

    /// Clients that get another epoch with each answer: a repeated request comes by the name
    /// before.
    fn end_bumping(
        &mut self,
        now_ms: i64,
        request: &EndTxnRequest,
        effects: &mut Effects,
    ) -> Result<Producer, Refusal> {
        let id = &*request.transactional_id;
        let (transaction, standing) = self.asked_to_end(request)?;
        let producer = transaction.producer;
        let outcome = outcome(request);
        let reached = transaction.outcome() == Some(outcome);
        match (transaction.state, standing) {
            (State::Empty, Standing::Before) => Err(ErrorCode::ProducerFenced.into()),
            (_, Standing::Before) if !reached => Err(ErrorCode::InvalidTxnState.into()),
            (state, _) if state.is_prepared() => Err(ErrorCode::ConcurrentTransactions.into()),
            (_, Standing::Before) => Ok(producer),
            // A transaction to which nothing was added exists only at the client. Its epoch is over
            // all the same, so that nothing that is on its way can be added later.
            (state, _) if state != State::Ongoing && outcome.is_commit() => {
                Err(ErrorCode::InvalidTxnState.into())
            }
            _ => {
                let epoch = Epoch::Bumped { before: Some(producer) };
                Ok(self.decide(now_ms, id, outcome, epoch, 2, effects)?)
            }
        }
    }

    fn asked_to_end(&self, request: &EndTxnRequest) -> Result<(&Transaction, Standing), ErrorCode> {
        let asks = Producer { id: request.producer_id, epoch: request.producer_epoch };
        self.standing_of(&request.transactional_id, asks)
    }

    /// An error for who has no say.
    pub(crate) fn standing_of(
        &self,
        id: &str,
        asks: Producer,
    ) -> Result<(&Transaction, Standing), ErrorCode> {
        check_id(id)?;
        let transaction = self.find(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        match transaction.standing(asks) {
            Standing::Stranger => Err(ErrorCode::InvalidProducerIdMapping),
            Standing::Fenced => Err(ErrorCode::ProducerFenced),
            standing => Ok((transaction, standing)),
        }
    }

    /// Ends a transaction; the producer that goes on is given back.
    pub(crate) fn decide(
        &mut self,
        now_ms: i64,
        id: &str,
        outcome: Outcome,
        epoch: Epoch,
        client_version: i16,
        effects: &mut Effects,
    ) -> Result<Producer, ErrorCode> {
        let transaction = self.find(id).ok_or(ErrorCode::InvalidProducerIdMapping)?.clone();
        let current = transaction.producer;
        let (producer, before, next_id) = match epoch {
            Epoch::Kept => (current, None, None),
            Epoch::Bumped { before } if current.is_exhausted() => {
                (current.bumped(), before, Some(self.take_producer_id()?))
            }
            Epoch::Bumped { before } => (current.bumped(), before, None),
        };
        let began = transaction.state == State::Ongoing;
        let prepared = Transaction {
            producer,
            before,
            next_id,
            state: outcome.prepared(),
            started_ms: if began { transaction.started_ms } else { now_ms },
            updated_ms: now_ms,
            client_version,
            ..transaction
        };
        let record = Prepare::Record(effects.records.len());
        self.save(id, prepared, effects);
        self.announce(now_ms, id, record, effects);
        Ok(next_id.map_or(producer, Producer::first))
    }
}

fn outcome(request: &EndTxnRequest) -> Outcome {
    if request.committed { Outcome::Commit } else { Outcome::Abort }
}
