//! Tests of every format: golden files, round trips of arbitrary values, and damaged bytes.

mod make;
mod samples;

mod damage;
mod golden;
mod lies;
mod round_trip;
