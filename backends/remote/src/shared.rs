//! One copy of each daemon in a list of what daemons hold.

use std::collections::HashMap;
use std::sync::Arc;

use repmd_backend_api::{Instance, InstanceId};

/// The daemons of a list, as they were read last: each registration has its daemon written out, and there are hundreds
/// of one daemon.
#[derive(Debug, Default)]
pub struct Daemons(HashMap<InstanceId, Arc<Instance>>);

impl Daemons {
    /// The copy that there is of `instance`, in its place.
    pub fn share(&mut self, instance: &mut Arc<Instance>) {
        match self.0.get(&instance.id) {
            Some(there) if there == instance => *instance = Arc::clone(there),
            _ => {
                self.0.insert(instance.id, Arc::clone(instance));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repmd_backend_api::HostId;

    #[test]
    fn there_is_one_copy_of_what_is_equal() {
        let daemon = |id, name: &str| {
            let host = HostId::parse("a").unwrap();
            let (aliases, addresses) = (Vec::new(), Vec::new());
            Arc::new(Instance {
                id: InstanceId(id),
                name: name.to_owned(),
                host,
                aliases,
                addresses,
                port: 1,
            })
        };
        let mut daemons = Daemons::default();
        let mut list = [daemon(1, "a"), daemon(2, "a"), daemon(1, "a"), daemon(1, "b"), daemon(1, "b")];
        let before = list.clone();
        list.iter_mut().for_each(|instance| daemons.share(instance));
        assert_eq!(list, before);
        assert!(Arc::ptr_eq(&list[0], &list[2]) && Arc::ptr_eq(&list[3], &list[4]));
    }
}
