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

#[cfg(test)]
mod tests {
    use super::super::state::tests::{instance, registration};
    use super::*;

    #[test]
    fn what_nodes_have_registered_is_read_as_it_was_written() {
        let nodes = [registration(1, "a"), registration(2, "r/\"é")];
        let bytes = to_bytes(&nodes, &instance()).unwrap();
        assert_eq!(from_bytes(&bytes, &instance()).unwrap(), nodes);
        // No connection is carried.
        assert_eq!(String::from_utf8(bytes).unwrap().matches("\"fd\":-1,").count(), 2);
    }

    #[test]
    fn what_cannot_be_read_of_a_node_costs_it_alone_and_another_host_or_format_all() {
        let nodes = [registration(1, "a"), registration(2, "b")];
        let text = String::from_utf8(to_bytes(&nodes, &instance()).unwrap()).unwrap();
        let read = |right: &str, wrong: &str| {
            let changed = text.replacen(right, wrong, 1);
            assert_ne!(changed, text, "{right}");
            from_bytes(changed.as_bytes(), &instance())
        };
        assert_eq!(read("\"name\":\"a\"", "\"name\":\"\"").unwrap(), nodes[1..]);
        let error = |right, wrong| read(right, wrong).unwrap_err().to_string();
        assert_eq!(error("\"host\":\"a\"", "\"host\":\"b\""), "format 1 of b, and not format 1 of a");
        assert_eq!(error("\"format\":1", "\"format\":2"), "format 2 of a, and not format 1 of a");
        assert!(read("\"nodes\"", "\"others\"").is_err());
        assert!(from_bytes(b"{}", &instance()).is_err());
        assert!(from_bytes(&text.as_bytes()[..text.len() - 1], &instance()).is_err());
    }
}
