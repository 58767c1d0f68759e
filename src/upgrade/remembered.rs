//! Nodes alone in the form that versions of the program share.

use std::io;
use std::sync::Arc;

use repmd_backend_api::{Instance, Registration};
use serde::{Deserialize, Serialize};

use super::state::NodeRecord;

/// Which form this is.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    format: u32,
    host: String,
    nodes: Vec<NodeRecord>,
}

/// Writes what the nodes of a daemon have registered.
///
/// # Errors
/// None that can be helped.
pub fn to_bytes(nodes: &[Arc<Registration>], instance: &Instance) -> io::Result<Vec<u8>> {
    let nodes = nodes.iter().map(|node| NodeRecord::new(0, -1, node, None)).collect();
    Ok(serde_json::to_vec(&Remembered { format: FORMAT, host: instance.host.to_string(), nodes })?)
}

/// Reads it for a daemon of the same host. What cannot be read of one node is left out.
///
/// # Errors
/// When it is something else, or another host's.
pub fn from_bytes(bytes: &[u8], instance: &Arc<Instance>) -> io::Result<Vec<Arc<Registration>>> {
    let Remembered { format, host, nodes } = serde_json::from_slice(bytes)?;
    if format != FORMAT || host != instance.host.to_string() {
        let what = format!("format {format} of {host}, and not format {FORMAT} of {}", instance.host);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(nodes.iter().filter_map(|node| node.registration(instance).ok()).collect())
}
