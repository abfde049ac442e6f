//! Who leads what: the controller, this broker's session, and recovery of sessions that ended.
//!
//! Broker and controller exchange only the values of `message`, in one process too.

pub mod message;
pub mod decide;
pub mod claim;
pub mod controller;
pub mod view;
pub mod quotas;
pub mod scram;
