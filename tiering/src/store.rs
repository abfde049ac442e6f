//! The conditional store.
