//! The `repmd` program: picks the backend, and leaves the rest to the library.

use std::process::ExitCode;
use std::sync::Arc;

use repmd::run::Backends;
use repmd::settings::{Backend, Settings};
use repmd_backend_api::RegistryBackend;
use repmd_backend_memory::Memory;

fn main() -> ExitCode {
    repmd::cli::main(std::env::args_os(), &|name| std::env::var(name).ok(), &Known)
}

/// Every backend that this program knows.
struct Known;

impl Backends for Known {
    fn check(&self, _url: &str) -> Result<(), String> {
        Err("`memory`".to_owned())
    }

    fn open(&self, settings: &Settings) -> Arc<dyn RegistryBackend> {
        match &settings.backend {
            Backend::Memory => Arc::new(Memory::new()),
            Backend::Shared(_) => unreachable!("no URL passes the check"),
        }
    }
}
