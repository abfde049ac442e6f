//! ApiVersions (KIP-511): which requests are served, asked before anything else.

use levee_kafka::messages::ApiKey;
use levee_kafka::messages::api_versions_request::ApiVersionsRequest;
use levee_kafka::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use levee_kafka::{ErrorCode, frame};

use super::versions::SERVED;
use super::{Answered, Ask};

/// What clients may do only where all brokers can (KIP-584): groups of the new protocol, and
/// transactions with an epoch each (KIP-890, all of it).
const FEATURES: &[(&str, i16)] = &[("group.version", 1), ("transaction.version", 2)];

pub(super) async fn answer(ask: &Ask, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let (name, version) = (request.client_software_name, request.client_software_version);
    if ask.version() >= 3 {
        if !is_name(&name) || !is_name(&version) {
            let error_code = ErrorCode::InvalidRequest.into();
            return ApiVersionsResponse { error_code, ..Default::default() };
        }
        *ask.client.software.lock() = (name, version);
    }
    let row = |(api, min_version, max_version): &(ApiKey, i16, i16)| ApiVersion {
        api_key: *api as i16,
        min_version: *min_version,
        max_version: *max_version,
    };
    let supported = |(name, max_version): &(&str, i16)| SupportedFeatureKey {
        name: (*name).to_owned(),
        min_version: 0,
        max_version: *max_version,
    };
    let finalized = |(name, level): &(&str, i16)| FinalizedFeatureKey {
        name: (*name).to_owned(),
        max_version_level: *level,
        min_version_level: *level,
    };
    ApiVersionsResponse {
        api_keys: SERVED.iter().map(row).collect(),
        supported_features: FEATURES.iter().map(supported).collect(),
        finalized_features_epoch: 0,
        finalized_features: FEATURES.iter().map(finalized).collect(),
        ..Default::default()
    }
}

/// To a version that this broker does not know: the oldest form, which every client can read, with
/// what it may ask instead.
pub(super) fn unsupported(ask: &Ask) -> Answered {
    let (api_key, min_version, max_version) = (ApiKey::ApiVersions as i16, 0, 4);
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.into(),
        api_keys: vec![ApiVersion { api_key, min_version, max_version }],
        ..Default::default()
    };
    let pieces = frame::response(api_key, 0, ask.header.correlation, &response);
    Answered { pieces, ..Default::default() }
}

/// KIP-511: letters, digits, and `.` and `-` inside.
fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|c| plain(*c) || matches!(c, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_of_clients_are_plain() {
        assert!(is_name("apache-kafka-java") && is_name("4.3.1") && is_name("x"));
        assert!(!is_name("") && !is_name("-x") && !is_name("x.") && !is_name("a b"));
    }
}
