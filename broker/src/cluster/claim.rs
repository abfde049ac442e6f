//! Becoming the controller: by claiming the next slot of the MetaLog.

use std::time::Duration;

use levee_proto::ids::Nonce;
use levee_proto::metalog::Claim;
use levee_runtime::Host;
use levee_tiering::metalog::{LoadError, MetaLog, MetaState, Tailed};

/// Silence of the MetaLog after which its controller is taken to be gone: it answers
/// beats for 3 s after its last slot, and 2 s are for slow clocks.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How often a standby looks for the next slot.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Who claims.
pub struct Claimant {
    pub broker: u32,
    pub incarnation: Nonce,
    /// Incarnations that ran on this data directory before. Its lock is held, so they are gone.
    pub before: Vec<Nonce>,
    pub address: String,
}

/// Waits until the present controller is gone, and claims. Returns the state right after the
/// claim, which is Won, above the garbage boundary, and the newest term (I2).
pub async fn become_controller(
    log: &MetaLog,
    host: &Host,
    me: &Claimant,
    mut waiting: impl FnMut(&MetaState) + Send,
) -> Result<MetaState, LoadError> {
    let mut state = log.load().await?;
    let mut heard = host.now();
    loop {
        let gone = match &state.controller {
            None => true,
            Some(other) => me.before.contains(&other.incarnation),
        };
        if gone || host.now().since(heard) >= SILENCE {
            match claim(log, me, &mut state).await? {
                true if log.boundary().await? <= state.head => return Ok(state),
                true => state = log.load().await?,
                // Somebody wrote that slot: read it below before anything is tried again.
                false => heard = host.now(),
            }
        }
        match log.tail(&state).await? {
            Tailed::Slot(slot, crc) => {
                state.apply_slot(&slot, crc)?;
                heard = host.now();
            }
            Tailed::Collected => {
                state = log.load().await?;
                heard = host.now();
            }
            Tailed::Head => {
                waiting(&state);
                host.sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// One try; false where somebody else wrote that slot.
async fn claim(log: &MetaLog, me: &Claimant, state: &mut MetaState) -> Result<bool, LoadError> {
    let term = state.term + 1;
    let record =
        Claim { term, broker: me.broker, incarnation: me.incarnation, address: me.address.clone() };
    let slot = log.next_slot(state, term, me.broker, vec![record.into()]);
    let noted = |error: &levee_tiering::store::StoreError| {
        tracing::warn!(%error, "claim: no clear answer from the bucket, trying again");
    };
    match log.write(&slot, noted).await {
        Ok(crc) => {
            state.apply_slot(&slot, crc)?;
            Ok(true)
        }
        Err(_) => Ok(false),
    }
}
