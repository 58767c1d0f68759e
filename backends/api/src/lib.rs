//! What a registry behind repmd promises: the [`RegistryBackend`] trait, its values and its errors.
//!
//! A value is checked once, where it enters; from then on its type says that it was checked. No type
//! here knows the wire, a socket or a task.
//!
//! | module | noun |
//! |---|---|
//! | [`name`] | the part before the `@`, and the names of hosts and clusters |
//! | [`creation`] | the number that tells the lives of one name apart |
//! | [`creations`] | which of them comes next |
//! | [`node`] | what a node registers, and the registration that a registry keeps of it |
//! | [`backend`] | the contract, leases and changes |
//! | [`report`] | what a store says of itself, for people |
//! | [`error`] | what can go wrong, one variant a decision |

pub mod backend;
pub mod creation;
pub mod creations;
pub mod error;
pub mod kind;
pub mod name;
pub mod node;
pub mod report;

pub use backend::{
    Change, Claim, Found, Holdings, Lease, LeaseToken, NOTE_BYTES_MAX, Note, Promises, REASON_CHARS_MAX,
    RegistryBackend, Renewal, Renewed, Scope, Search, Seen, Unreadable, liveness,
};
pub use creation::Creation;
pub use creations::Creations;
pub use error::BackendError;
pub use kind::{Kind, Place};
pub use name::{AliveName, HostId, NameError, NodeName, is_reachable};
pub use node::{EXTRA_BYTES_MAX, Instance, InstanceId, Node, NodeType, Registration};
pub use report::{Severity, StoreFinding, StoreReport, StoreTrouble};
