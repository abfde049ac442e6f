//! `DescribeTransactions` and `ListTransactions`.

use std::collections::BTreeSet;

use levee_kafka::ErrorCode;
use levee_kafka::messages::describe_transactions_request::DescribeTransactionsRequest;
use levee_kafka::messages::describe_transactions_response::{
    self as described, DescribeTransactionsResponse, TopicData,
};
use levee_kafka::messages::list_transactions_request::ListTransactionsRequest;
use levee_kafka::messages::list_transactions_response::{self as listed, ListTransactionsResponse};
use regex::{Regex, RegexBuilder};

use crate::coordinator::Transactions;
use crate::effects::Answer;
use crate::transaction::State;

/// Memory that the pattern of one request may take when it is compiled.
const PATTERN_BYTES: usize = 1 << 20;

/// The first versions with a duration and with a pattern.
const DURATION_FROM: i16 = 1;
const PATTERN_FROM: i16 = 2;

impl Transactions {
    pub(crate) fn describe(&self, request: &DescribeTransactionsRequest) -> Option<Answer> {
        let states = request.transactional_ids.iter().map(|id| self.described(id)).collect();
        Some(Answer::DescribeTransactions(DescribeTransactionsResponse {
            transaction_states: states,
            ..Default::default()
        }))
    }

    fn described(&self, id: &str) -> described::TransactionState {
        let error = |code: ErrorCode| described::TransactionState {
            error_code: code.into(),
            transactional_id: id.into(),
            ..Default::default()
        };
        if id.is_empty() {
            return error(ErrorCode::InvalidRequest);
        }
        let Some(transaction) = self.find(id) else {
            return error(ErrorCode::TransactionalIdNotFound);
        };
        let topics = transaction.partitions.iter().map(|(topic, partitions)| TopicData {
            topic: topic.clone(),
            partitions: partitions.iter().copied().collect(),
        });
        described::TransactionState {
            error_code: ErrorCode::None.into(),
            transactional_id: id.into(),
            transaction_state: transaction.state.name().into(),
            transaction_timeout_ms: transaction.timeout_ms,
            transaction_start_time_ms: transaction.started_ms,
            producer_id: transaction.producer.id,
            producer_epoch: transaction.producer.epoch,
            topics: topics.collect(),
        }
    }

    pub(crate) fn list(
        &self,
        now_ms: i64,
        version: i16,
        request: &ListTransactionsRequest,
    ) -> Option<Answer> {
        let mut answer = ListTransactionsResponse::default();
        let Ok(pattern) = pattern(version, request) else {
            answer.error_code = ErrorCode::InvalidRegularExpression.into();
            return Some(Answer::ListTransactions(answer));
        };
        let mut states = BTreeSet::new();
        for name in &request.state_filters {
            match State::from_name(name) {
                Some(state) => _ = states.insert(state),
                None => answer.unknown_state_filters.push(name.clone()),
            }
        }
        let ids: BTreeSet<i64> = request.producer_id_filters.iter().copied().collect();
        let longer_than = Some(request.duration_filter)
            .filter(|duration_ms| version >= DURATION_FROM && *duration_ms >= 0);
        for (id, transaction) in self.all() {
            let lasts = now_ms.saturating_sub(transaction.started_ms);
            // Filters that name only unknown states filter nothing, as in Kafka.
            let wanted = (states.is_empty() || states.contains(&transaction.state))
                && (ids.is_empty() || ids.contains(&transaction.producer.id))
                && longer_than.is_none_or(|duration_ms| lasts > duration_ms)
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id));
            if wanted {
                answer.transaction_states.push(listed::TransactionState {
                    transactional_id: id.into(),
                    producer_id: transaction.producer.id,
                    transaction_state: transaction.state.name().into(),
                });
            }
        }
        Some(Answer::ListTransactions(answer))
    }
}

/// Of whole ids. Kafka's patterns are RE2's, whose syntax is that of `regex`.
fn pattern(version: i16, request: &ListTransactionsRequest) -> Result<Option<Regex>, regex::Error> {
    let pattern = request.transactional_id_pattern.as_deref().unwrap_or_default();
    if version < PATTERN_FROM || pattern.is_empty() {
        return Ok(None);
    }
    // Alone first: in the group below, `a)(b` would be one.
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build()?;
    let whole = format!("^(?:{pattern})$");
    RegexBuilder::new(&whole).size_limit(PATTERN_BYTES).build().map(Some)
}
