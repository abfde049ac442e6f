//! Who is in the cluster, as Kafka clients see it; DescribeCluster (KIP-700).

use levee_kafka::ErrorCode;
use levee_kafka::Uuid;
use levee_kafka::messages::describe_cluster_request::DescribeClusterRequest;
use levee_kafka::messages::describe_cluster_response::{
    DescribeClusterBroker, DescribeClusterResponse,
};
use levee_proto::ids::PartitionId;
use levee_tiering::metalog::MetaState;

use super::Ask;

/// Bits of Kafka's operations that everybody may do while nobody is asked who they are: for a topic
/// read, write, create, delete, alter, describe, describe and alter configs.
pub(super) const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// For the cluster: create, alter, describe, cluster action, describe and alter configs, idempotent
/// write.
pub(super) const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);

const fn bits(operations: &[u32]) -> i32 {
    let (mut all, mut at) = (0, 0);
    while at < operations.len() {
        all |= 1 << operations[at];
        at += 1;
    }
    all
}

/// What clients know a broker by.
pub(super) struct Broker {
    pub(super) id: i32,
    pub(super) host: String,
    pub(super) port: i32,
    pub(super) rack: Option<String>,
}

/// Brokers that clients may connect to. One broker is the cluster, for now.
pub(super) fn brokers(ask: &Ask) -> Vec<Broker> {
    let config = &ask.node().config;
    let rules = config.kafka_advertised.clone().unwrap_or_default();
    let (host, port) = rules.of(ask.client.peer.ip(), ask.client.local);
    let rack = Some(config.zone.clone()).filter(|zone| !zone.is_empty());
    vec![Broker { id: own_id(ask), host, port: port.into(), rack }]
}

pub(super) fn own_id(ask: &Ask) -> i32 {
    ask.node().session.broker as i32
}

/// As Kafka shows ids: some clients keep no more than 22 characters.
pub(super) fn id(ask: &Ask) -> String {
    Uuid::from(ask.node().view.read().cluster.0).to_string()
}

/// The broker that clients send administration to: any can, so it is this one.
pub(super) fn controller(ask: &Ask) -> i32 {
    own_id(ask)
}

/// Who leads a partition, and since which epoch.
pub(super) fn leader(ask: &Ask, state: &MetaState, id: PartitionId) -> Option<(i32, i32)> {
    let leader = state.partitions.get(&id)?.leader.as_ref()?;
    let broker = leader.lane.session.broker as i32;
    (broker == own_id(ask)).then_some((broker, leader.epoch as i32))
}

pub(super) async fn describe(
    ask: &Ask,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    const BROKERS: i8 = 1;
    if request.endpoint_type != BROKERS {
        return DescribeClusterResponse {
            error_code: ErrorCode::UnsupportedEndpointType.into(),
            error_message: Some("this address speaks for brokers (endpoint type 1)".into()),
            endpoint_type: request.endpoint_type,
            ..Default::default()
        };
    }
    let broker = |broker: Broker| DescribeClusterBroker {
        broker_id: broker.id,
        host: broker.host,
        port: broker.port,
        rack: broker.rack,
        is_fenced: false,
    };
    DescribeClusterResponse {
        cluster_id: id(ask),
        controller_id: controller(ask),
        brokers: brokers(ask).into_iter().map(broker).collect(),
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => i32::MIN,
        },
        ..Default::default()
    }
}
