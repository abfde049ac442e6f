//! ListConfigResources (KIP-1142): what DescribeConfigs can be asked about.

use levee_kafka::ErrorCode;
use levee_kafka::messages::list_config_resources_request::ListConfigResourcesRequest;
use levee_kafka::messages::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponse,
};

use super::{Ask, cluster, configs};

/// Kinds that Kafka knows and nothing here has settings of: levels of loggers, subscriptions to
/// clients' metrics, groups.
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

pub(super) async fn list(
    ask: &Ask,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    // Version 0 lists clients' metrics only, and from 1 on an empty list means all kinds.
    let kinds = match (ask.version(), request.resource_types) {
        (0, _) => vec![CLIENT_METRICS],
        (_, kinds) if kinds.is_empty() => vec![configs::TOPIC, configs::BROKER],
        (_, kinds) => kinds,
    };
    let mut config_resources = Vec::new();
    for resource_type in kinds {
        let names = match resource_type {
            configs::TOPIC => ask.node().view.read().names.keys().cloned().collect(),
            configs::BROKER => vec![cluster::own_id(ask).to_string()],
            BROKER_LOGGER | CLIENT_METRICS | GROUP => Vec::new(),
            _ => {
                let error_code = ErrorCode::UnsupportedVersion.into();
                return ListConfigResourcesResponse { error_code, ..Default::default() };
            }
        };
        let resource = |resource_name| ConfigResource { resource_name, resource_type };
        config_resources.extend(names.into_iter().map(resource));
    }
    ListConfigResourcesResponse { config_resources, ..Default::default() }
}
