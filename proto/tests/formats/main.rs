//! Tests of every format: golden files, round trips of arbitrary values, damaged bytes, and lies
//! behind right checksums.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod make;
mod samples;

mod damage;
mod golden;
mod lies;
mod round_trip;
