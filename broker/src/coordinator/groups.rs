//! Groups as the state machine of a shard.

use std::convert::Infallible;
use std::sync::Arc;

use futures::future::BoxFuture;
use levee_groups::{Answer, Caller, Groups, Producer, Request, Settings, Topic, Topics};
use levee_kafka::Uuid;
use levee_proto::ids::TopicId;
use levee_proto::record::BatchHeader;
use levee_proto::record::records::DecodedRecord;

use super::shard::{Effects, Joining, Machine, Token};
use crate::node::Node;
use crate::partition::Asked;

/// One request to a group, and who asks.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) request: Request,
    /// Of a request in a transaction: what says that it is under way.
    pub(crate) asked: Option<Asked>,
}

impl Call {
    pub(crate) fn new(caller: Caller, request: Request) -> Self {
        Self { caller, request, asked: None }
    }
}

pub(crate) struct GroupsMachine {
    groups: Groups,
    topics: KnownTopics,
}

impl GroupsMachine {
    pub(super) fn new(node: Arc<Node>, max_batch_bytes: usize) -> Option<Self> {
        let config = &node.config;
        let settings = Settings {
            initial_rebalance_delay_ms: config.group_initial_rebalance_delay.as_millis() as i32,
            min_session_ms: config.group_min_session_timeout.as_millis() as i32,
            max_session_ms: config.group_max_session_timeout.as_millis() as i32,
            consumer_session_ms: config.group_consumer_session_timeout.as_millis() as i32,
            consumer_heartbeat_ms: config.group_consumer_heartbeat_interval.as_millis() as i32,
            offsets_retention_ms: config.offsets_retention.as_millis() as i64,
            max_batch_bytes,
            ..Settings::default()
        };
        Some(Self { groups: Groups::new(settings), topics: KnownTopics(node) })
    }
}

impl Machine for GroupsMachine {
    type Call = Call;
    type Answer = Answer;
    type Deed = Infallible;

    fn replay(&mut self, header: &BatchHeader, record: DecodedRecord) -> Result<(), String> {
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let producer = header.is_transactional().then_some(Producer { id, epoch });
        let key = record.data.key.unwrap_or_default();
        self.groups.replay(key, record.data.value, producer).map_err(|error| error.to_string())
    }

    fn loaded(&mut self, now: i64) -> Effects<Self> {
        self.groups.loaded(now, &self.topics).into()
    }

    fn call(&mut self, now: i64, token: Token, call: Call) -> Effects<Self> {
        self.groups.request(now, &self.topics, &call.caller, token, call.request).into()
    }

    fn deadline(&self) -> Option<i64> {
        self.groups.deadline()
    }

    fn tick(&mut self, now: i64) -> Effects<Self> {
        self.groups.tick(now, &self.topics).into()
    }

    fn transaction_ended(&mut self, producer_id: i64, commit: bool) {
        self.groups.transaction_ended(producer_id, commit);
    }

    fn joining(call: &Call) -> Option<Joining> {
        let Request::TxnOffsetCommit(request) = &call.request else { return None };
        let (producer_id, producer_epoch) = (request.producer_id, request.producer_epoch);
        Some(Joining { producer_id, producer_epoch, asked: call.asked })
    }

    fn perform(&self, deed: Infallible) -> Vec<BoxFuture<'static, Call>> {
        match deed {}
    }
}

impl From<levee_groups::Effects> for Effects<GroupsMachine> {
    fn from(effects: levee_groups::Effects) -> Self {
        let levee_groups::Effects { records, cuts, producer, answers } = effects;
        let producer = producer.map(|producer| (producer.id, producer.epoch));
        Self { records, cuts, producer, answers, deeds: Vec::new() }
    }
}

/// The topics of the cluster, as this broker knows them.
struct KnownTopics(Arc<Node>);

impl Topics for KnownTopics {
    fn version(&self) -> u64 {
        self.0.view.topics_version()
    }

    fn by_name(&self, name: &str) -> Option<Topic> {
        let state = self.0.view.read();
        let topic = state.topic_named(name)?;
        Some(Topic { id: Uuid::from(topic.id.0), partitions: topic.partitions as i32 })
    }

    fn name_of(&self, id: Uuid) -> Option<String> {
        let state = self.0.view.read();
        let topic = state.topics.get(&TopicId(id.into()))?;
        topic.deleted_ms.is_none().then(|| topic.name.clone())
    }

    fn each_name(&self, each: &mut dyn FnMut(&str)) {
        let state = self.0.view.read();
        // Internal ones too: who writes a pattern that fits them wants them, as in Kafka.
        state.names.keys().for_each(|name| each(name));
    }
}
