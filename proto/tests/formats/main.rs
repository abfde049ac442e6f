//! Tests of every format: golden files, round trips of arbitrary values, and damaged bytes.


mod samples;


mod golden;

