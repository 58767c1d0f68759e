//! The `repmd` program: picks the backend, and leaves the rest to the library.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use repmd::printable::in_words;
use repmd::run::Backends;
use repmd::settings::{Backend, Settings};
use repmd_backend_api::{BackendError, RegistryBackend, StoreReport};
use repmd_backend_memory::Memory;
use repmd_backend_redis::{Redis, Settings as Store, SettingsError};

fn main() -> ExitCode {
    repmd::cli::main(std::env::args_os(), &|name| std::env::var(name).ok(), &Known)
}

/// Every backend that this program knows.
struct Known;

impl Backends for Known {
    fn check(&self, url: &str) -> Result<(), String> {
        let checked = Store::from_url(url, "any", Duration::from_secs(15));
        checked
            .map(drop)
            .map_err(|SettingsError { part, expected }| in_words(&format!("{expected} as {part}")))
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn RegistryBackend>, String> {
        match &settings.backend {
            Backend::Memory => Ok(Arc::new(Memory::new())),
            Backend::Shared(url) => {
                let store = Store::from_url(url, &settings.cluster, settings.lease_ttl);
                Ok(Arc::new(Redis::open(store.map_err(|error| in_words(&error))?)))
            }
        }
    }

    fn inspect<'a>(
        &'a self,
        settings: &'a Settings,
    ) -> BoxFuture<'a, Option<Result<StoreReport, BackendError>>> {
        Box::pin(async {
            let Backend::Shared(url) = &settings.backend else { return None };
            let store = Store::from_url(url, &settings.cluster, settings.lease_ttl).ok()?;
            Some(Redis::inspect(store).await)
        })
    }
}
