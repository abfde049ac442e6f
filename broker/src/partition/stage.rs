//! What a partition may do now: wait, serve, hand itself off, or nothing for ever.

use std::sync::Arc;

use levee_hot_log::lane::Lane;
use levee_proto::ids::LaneId;
use levee_proto::metalog::DurabilityClass;

use crate::error::Error;

/// A grant in use.
#[derive(Clone)]
pub struct Serving {
    pub leader_epoch: u32,
    pub start: u64,
    pub lane: Arc<dyn Lane>,
    pub class: DurabilityClass,
}

/// See the module. `number` grows with each change, so that waiters see it.
pub struct Stage {
    number: u64,
    at: At,
}

enum At {
    /// Not led yet, or its older lane waits for something.
    Waiting(String),
    Serving(Serving),
    /// The hand-off entry is in the lane; appends wait for the next grant.
    HandingOff(Serving),
    Ended(Error),
}

impl Stage {
    pub fn waiting(why: impl Into<String>) -> Self {
        Self { number: 0, at: At::Waiting(why.into()) }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    fn set(&mut self, at: At) {
        if !matches!(self.at, At::Ended(_)) {
            self.at = at;
            self.number += 1;
        }
    }

    pub fn wait(&mut self, why: impl Into<String>) {
        self.set(At::Waiting(why.into()));
    }

    pub fn serve(&mut self, serving: Serving) {
        self.set(At::Serving(serving));
    }

    /// From serving to handing off; what was served until now.
    pub fn hand_off(&mut self) -> Option<Serving> {
        let At::Serving(serving) = &self.at else { return None };
        let serving = serving.clone();
        self.set(At::HandingOff(serving.clone()));
        Some(serving)
    }

    pub fn end(&mut self, why: Error) {
        self.set(At::Ended(why));
    }

    pub fn serving(&self) -> Option<&Serving> {
        match &self.at {
            At::Serving(serving) => Some(serving),
            _ => None,
        }
    }

    /// The error that ended it, as later requests hear it: nothing of theirs was written.
    pub fn ended(&self) -> Option<Error> {
        match &self.at {
            At::Ended(why) => Some(Error { may_be_written: false, ..why.clone() }),
            _ => None,
        }
    }

    /// Why reads cannot be answered: what it knows of the log is nothing, or may be old.
    pub fn unreadable(&self, topic: &str, partition: u32) -> Option<Error> {
        match &self.at {
            At::Waiting(why) => Some(Error::partition_unavailable(topic, partition, why)),
            At::Serving(_) | At::HandingOff(_) => None,
            At::Ended(_) => self.ended(),
        }
    }

    pub fn is_handing_off(&self) -> bool {
        matches!(self.at, At::HandingOff(_))
    }

    pub fn leader_epoch(&self) -> u32 {
        self.grant().map_or(0, |s| s.leader_epoch)
    }

    pub fn lane(&self) -> Option<LaneId> {
        self.grant().map(|s| s.lane.id())
    }

    fn grant(&self) -> Option<&Serving> {
        match &self.at {
            At::Serving(s) | At::HandingOff(s) => Some(s),
            At::Waiting(_) | At::Ended(_) => None,
        }
    }

    pub fn class(&self) -> Option<DurabilityClass> {
        self.grant().map(|s| s.class)
    }

    pub fn describe(&self) -> (&'static str, String) {
        match &self.at {
            At::Waiting(why) => ("waiting", why.clone()),
            At::Serving(_) => ("serving", String::new()),
            At::HandingOff(_) => ("handing_off", "moves to another lane".into()),
            At::Ended(why) => ("ended", why.to_string()),
        }
    }
}
