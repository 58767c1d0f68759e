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
    use super::*;
    use repmd_backend_api::{AliveName, Creation, HostId, InstanceId, Node};
    use std::time::SystemTime;

    #[test]
    fn nodes_are_read_as_they_were_written_on_the_same_host_alone() {
        let on = |host| {
            let host = HostId::parse(host).unwrap();
            let (name, aliases, addresses) = ("i".to_owned(), vec![], vec![]);
            Arc::new(Instance { id: InstanceId(7), name, host, aliases, addresses, port: 4369 })
        };
        let node = Arc::new(Registration {
            node: Node::ordinary(AliveName::parse("r/\"é".as_bytes()).unwrap(), 5000),
            advertised_port: 5001,
            creation: Creation::FIRST,
            instance: on("a"),
            registered_at: SystemTime::UNIX_EPOCH,
        });
        let other = Registration { creation: node.creation.next(), ..(*node).clone() }.into();
        let written = to_bytes(&[Arc::clone(&node), other], &on("a")).unwrap();
        assert_eq!(from_bytes(&written, &on("a")).unwrap().len(), 2);
        // No node has this creation.
        let text = String::from_utf8(written).unwrap().replace("\"creation\":5", "\"creation\":0");
        assert_eq!(from_bytes(text.as_bytes(), &on("a")).unwrap(), [node]);
        let refused = from_bytes(text.as_bytes(), &on("b")).unwrap_err();
        assert_eq!(refused.to_string(), "format 1 of a, and not format 1 of b");
        let later = text.replace("\"format\":1", "\"format\":2");
        assert!(from_bytes(later.as_bytes(), &on("a")).is_err());
        assert!(from_bytes(b"{}", &on("a")).is_err());
    }
}
