//! A program with a kind of registry of its own beside repmd's: Redis, whose answers are lost now and then.
//!
//! ```text
//! cargo run -p repmd-backend-faulty --example repmd-faulty -- serve --backend faulty+redis://127.0.0.1
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use repmd::kinds::Kinds;
use repmd_backend_api::{BackendError, Instance, Kind, Place, RegistryBackend, StoreReport};
use repmd_backend_faulty::{Faulty, Odds};
use repmd_backend_memory::MemoryKind;
use repmd_backend_redis::RedisKind;

/// One call in ten fails: half of these are not made, of the others the answer is lost.
const FAULTS: Odds = Odds { refused: 0.05, lost: 0.05, delayed: 0.0, delay_max: Duration::ZERO };

#[derive(Debug)]
struct FaultyKind;

/// The place without its faults.
fn inner(place: &Place) -> Place {
    Place { url: place.url.trim_start_matches("faulty+").to_owned(), ..place.clone() }
}

#[async_trait]
impl Kind for FaultyKind {
    fn schemes(&self) -> &'static [&'static str] {
        &["faulty+redis"]
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn check(&self, url: &str) -> Result<(), String> {
        RedisKind.check(url.trim_start_matches("faulty+"))
    }

    fn open(&self, place: &Place, instance: Arc<Instance>) -> Result<Arc<dyn RegistryBackend>, String> {
        let faulty = Faulty::new(RedisKind.open(&inner(place), instance)?, 1);
        faulty.faults().set_odds(FAULTS);
        Ok(Arc::new(faulty))
    }

    async fn inspect(&self, place: &Place) -> Result<Option<StoreReport>, BackendError> {
        RedisKind.inspect(&inner(place)).await
    }
}

fn main() -> ExitCode {
    let kinds = Kinds(&[&MemoryKind, &RedisKind, &FaultyKind]);
    repmd::cli::main(std::env::args_os(), &|name| std::env::var(name).ok(), kinds)
}
