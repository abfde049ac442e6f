//! Names of things. Each is a newtype so that two of them cannot be swapped by accident.

use std::fmt;
use std::str::FromStr;

/// A topic for life. A topic that is deleted and created again gets a new id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub u128);

/// One partition of one topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    pub topic: TopicId,
    pub partition: u32,
}

/// One life of one broker process. Never resumed after a crash, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub broker: u32,
    pub epoch: u32,
}

/// A lane of a session: the unit of writing, fencing and recovery.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    pub session: SessionId,
    pub lane: u16,
}

/// 128 random bits that tell two writes of the same key apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u128);

/// Who wrote an object: a session, or a job of the cluster (top bit set).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer(pub u64);

const JOB_BIT: u64 = 1 << 63;

impl SessionId {
    /// Shape in one word: broker id in the high half, session epoch in the low half.
    pub fn to_u64(self) -> u64 {
        (u64::from(self.broker) << 32) | u64::from(self.epoch)
    }

    pub fn from_u64(value: u64) -> Self {
        Self { broker: (value >> 32) as u32, epoch: value as u32 }
    }
}

impl Writer {
    pub fn session(session: SessionId) -> Self {
        Self(session.to_u64())
    }

    pub fn job(job: u64) -> Self {
        Self(job | JOB_BIT)
    }

    pub fn as_session(self) -> Option<SessionId> {
        (self.0 & JOB_BIT == 0).then(|| SessionId::from_u64(self.0))
    }

    pub fn as_job(self) -> Option<u64> {
        (self.0 & JOB_BIT != 0).then_some(self.0 & !JOB_BIT)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.e{}", self.broker, self.epoch)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.l{}", self.session, self.lane)
    }
}

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.as_session(), self.as_job()) {
            (Some(session), _) => write!(f, "{session}"),
            (_, Some(job)) => write!(f, "j{job}"),
            (None, None) => unreachable!("a writer is a session or a job"),
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
