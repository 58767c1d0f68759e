//! The `repmd` program: picks the backend, and leaves the rest to the library.

use std::process::ExitCode;
use std::sync::Arc;

use repmd::settings::Backend;
use repmd_backend_api::RegistryBackend;
use repmd_backend_memory::Memory;

fn main() -> ExitCode {
    repmd::cli::main(std::env::args_os(), &|name| std::env::var(name).ok(), open_backend)
}

fn open_backend(backend: &Backend) -> Arc<dyn RegistryBackend> {
    match backend {
        Backend::Memory => Arc::new(Memory::new()),
    }
}
