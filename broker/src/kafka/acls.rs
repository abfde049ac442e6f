//! DescribeAcls, CreateAcls, DeleteAcls: nobody is asked who they are yet, so there are none; what
//! Kafka says without an authorizer.

use levee_kafka::ErrorCode;
use levee_kafka::messages::create_acls_request::CreateAclsRequest;
use levee_kafka::messages::create_acls_response::{AclCreationResult, CreateAclsResponse};
use levee_kafka::messages::delete_acls_request::DeleteAclsRequest;
use levee_kafka::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsResponse};
use levee_kafka::messages::describe_acls_request::DescribeAclsRequest;
use levee_kafka::messages::describe_acls_response::DescribeAclsResponse;

use super::Ask;

fn disabled() -> (i16, Option<String>) {
    (ErrorCode::SecurityDisabled.into(), Some("No Authorizer is configured.".into()))
}

pub(super) async fn describe(_: &Ask, _: DescribeAclsRequest) -> DescribeAclsResponse {
    let (error_code, error_message) = disabled();
    DescribeAclsResponse { error_code, error_message, ..Default::default() }
}

pub(super) async fn create(_: &Ask, request: CreateAclsRequest) -> CreateAclsResponse {
    let (error_code, error_message) = disabled();
    let result = AclCreationResult { error_code, error_message };
    CreateAclsResponse { results: vec![result; request.creations.len()], ..Default::default() }
}

pub(super) async fn delete(_: &Ask, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let (error_code, error_message) = disabled();
    let result = DeleteAclsFilterResult { error_code, error_message, ..Default::default() };
    DeleteAclsResponse { filter_results: vec![result; request.filters.len()], ..Default::default() }
}
