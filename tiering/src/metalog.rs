//! The MetaLog on the bucket: reading, writing and folding it.
//!
//! Owns: the fold. Does not own: deciding what to write (the controller in `levee-broker`).

pub mod fold;
pub mod state;

pub use fold::FoldError;
pub use state::MetaState;

#[cfg(test)]
mod tests;
