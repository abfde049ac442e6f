//! Test parts and end-to-end tests.
