//! The registry of one process, for settings.

use std::sync::Arc;

use async_trait::async_trait;
use repmd_backend_api::{BackendError, Instance, Kind, Place, RegistryBackend, StoreReport};

use crate::Memory;

/// `memory`: a registry that no other daemon sees.
#[derive(Clone, Copy, Debug)]
pub struct MemoryKind;

#[async_trait]
impl Kind for MemoryKind {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn check(&self, url: &str) -> Result<(), String> {
        if url == "memory" { Ok(()) } else { Err("nothing after `memory`".to_owned()) }
    }

    fn open(&self, _place: &Place, instance: Arc<Instance>) -> Result<Arc<dyn RegistryBackend>, String> {
        Ok(Arc::new(Memory::new().attach(instance)))
    }

    async fn inspect(&self, _place: &Place) -> Result<Option<StoreReport>, BackendError> {
        Ok(None)
    }
}
