//! Hashes and checksums that come with a body, compared with what came.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::request::Operation;

/// As S3 does: what is not there is not checked.
pub(super) fn check(operation: &Operation) -> Result<(), String> {
    let body = &operation.body;
    let sha256 = || digest(&SHA256, body);
    let crc64 = || crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, body).to_be_bytes();
    let is = |name: &str, right: String| match operation.header(name) {
        Some(given) if given != right => Err(format!("{name} is {given}, the body has {right}")),
        _ => Ok(()),
    };
    if operation.header("x-amz-content-sha256") != Some("UNSIGNED-PAYLOAD") {
        let hex = sha256().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        is("x-amz-content-sha256", hex)?;
    }
    is("x-amz-checksum-sha256", BASE64_STANDARD.encode(sha256()))?;
    is("x-amz-checksum-crc64nvme", BASE64_STANDARD.encode(crc64()))
}
