//! One partition log on its leader.

pub mod ladder;
pub mod producers;
