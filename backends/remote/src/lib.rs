//! What backends share whose store is on another machine.
//!
//! | module | noun |
//! |---|---|
//! | [`url`] | the parts of a store's URL, and what is wrong with one |
//! | [`address`] | where a server is |
//! | [`access`] | how to get in: login and TLS, as their files are at the moment |
//! | [`tcp`] | a connection that notices when the other end is gone |
//! | [`bounded`] | how large one message of the store may be |
//! | [`body`] | registrations and daemons as JSON |
//! | [`pulse`] | whether a connection still answers |
//! | [`changes`] | what is told to all who watch |
//! | [`kept`] | the connection that there is, while another is looked for |
//! | [`reason`] | what a store says, cut to one line |
//! | [`shared`] | one copy of each daemon in a list |

pub mod access;
pub mod address;
pub mod body;
pub mod bounded;
pub mod changes;
pub mod kept;
pub mod pulse;
pub mod reason;
pub mod shared;
pub mod tcp;
pub mod url;

pub use access::{Access, FileFault, Login, Opened, Tls};
pub use address::Address;
pub use changes::Changes;
pub use kept::{Backoff, State};
pub use pulse::{Fault, Pulse};
pub use reason::short;
pub use shared::Daemons;
pub use url::{SettingsError, Url};
