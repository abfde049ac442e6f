//! The load generator. Not built yet.
