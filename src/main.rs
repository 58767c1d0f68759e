//! The `repmd` program: lists its kinds of registry, and leaves the rest to the library.

use std::process::ExitCode;

use repmd::kinds::Kinds;
#[cfg(feature = "etcd")]
use repmd_backend_etcd::EtcdKind;
use repmd_backend_memory::MemoryKind;
use repmd_backend_postgres::PostgresKind;
use repmd_backend_redis::RedisKind;

fn main() -> ExitCode {
    let kinds = Kinds(&[
        &MemoryKind,
        &RedisKind,
        &PostgresKind,
        #[cfg(feature = "etcd")]
        &EtcdKind,
    ]);
    repmd::cli::main(std::env::args_os(), &|name| std::env::var(name).ok(), kinds)
}
