//! The `levee` commands as people use them: the real binary against a real broker.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod command;
mod consume;
mod demo;
mod groups;
mod input;
mod looks;
mod produce;
mod topics;
