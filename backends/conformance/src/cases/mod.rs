//! The promises, a file a call. Each case takes a fresh [`Fixture`](crate::Fixture) and panics when the
//! promise is broken.

pub mod creation;
pub mod daemons;
pub mod dropping;
pub mod exclusion;
pub mod expiry;
pub mod finding;
pub mod listing;
pub mod notes;
pub mod publishing;
pub mod registering;
pub mod releasing;
pub mod renewing;
pub mod silence;
pub mod watching;
