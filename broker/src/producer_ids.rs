//! Ids for producers: blocks from the controller, given out one by one.

use crate::cluster::message::{Answer, Request};
use crate::error::{Error, Result};
use crate::node::Node;

/// Ids taken from the controller at once.
const ID_BLOCK: u64 = 1000;

impl Node {
    /// An id that no producer ever had.
    pub async fn producer_id(&self) -> Result<i64> {
        let mut block = self.producer_ids.lock().await;
        if block.is_empty() {
            let request = Request::ProducerIds { count: ID_BLOCK };
            let Answer::ProducerIds(first) = self.commit(request).await? else {
                return Err(Error::internal("asking for producer ids gave something else"));
            };
            *block = first..first + ID_BLOCK;
        }
        let next = block.next().ok_or_else(|| Error::internal("an empty block of producer ids"))?;
        i64::try_from(next).map_err(|_| Error::internal("producer ids are used up"))
    }
}
