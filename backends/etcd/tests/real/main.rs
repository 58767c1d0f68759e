//! The registry against real servers.

#![allow(clippy::unwrap_used, reason = "the lint knows a test by its attribute, and helpers have none")]

mod arrangements;
mod conformance;
mod daemon;
mod faults;
mod foreign;
