//! InitProducerId: ids for idempotent producers (KIP-98, KIP-360).

use levee_kafka::ErrorCode;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::init_producer_id_response::InitProducerIdResponse;

use super::{Ask, Broken, code, transactions};

/// A producer without transactions gets a fresh id each time: an epoch of an id that only it has
/// would fence nobody.
pub(super) async fn answer(
    ask: &Ask,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Broken> {
    let failed = |code: ErrorCode| InitProducerIdResponse {
        error_code: code.into(),
        producer_epoch: -1,
        ..Default::default()
    };
    match request.transactional_id.as_deref() {
        None => {}
        Some("") => return Ok(failed(ErrorCode::InvalidRequest)),
        Some(_) => return transactions::init_producer_id(ask, request).await,
    }
    Ok(match ask.node().producer_id().await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, ..Default::default() },
        Err(error) => failed(code(&error)),
    })
}
