//! Keys for web identities: one role, one token.

use hyper::Response;

use super::request::{Body, Operation, error, ok};

/// The only one that gets keys.
pub const WEB_TOKEN: &str = "a-web-token";
const KEY: &str = "ASIA-FOR-A-WHILE";
const SESSION: &str = "session-of-the-role";

/// Signed with the keys that were given out, and with their token.
pub(super) fn signed(operation: &Operation) -> bool {
    operation.signed_by(KEY) && operation.header("x-amz-security-token") == Some(SESSION)
}

pub(super) fn answer_to(operation: &Operation) -> Response<Body> {
    if operation.asks("Action") != Some("AssumeRoleWithWebIdentity") {
        return error(400, "InvalidAction", "no such action");
    }
    let is_ours = operation.asks("WebIdentityToken") == Some(WEB_TOKEN);
    if !is_ours || operation.asks("RoleArn").is_none() {
        return error(403, "InvalidIdentityToken", "no such identity");
    }
    ok(format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>{KEY}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>{SESSION}</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>\
         </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    ))
}
