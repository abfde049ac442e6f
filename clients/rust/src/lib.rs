//! The Rust client. Not built yet.
