//! Registries in PostgreSQL, for settings.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use repmd_backend_api::{BackendError, Instance, Kind, Place, RegistryBackend, StoreReport};

use crate::schema;
use crate::settings::SCHEMES;
use crate::{Postgres, Settings, SettingsError};

/// `postgres://` and `postgresql://`: a database of PostgreSQL, one server or a primary with standbys.
#[derive(Clone, Copy, Debug)]
pub struct PostgresKind;

fn settings(place: &Place) -> Result<Settings, SettingsError> {
    Settings::from_url(&place.url, &place.cluster, place.lease_ttl)
}

#[async_trait]
impl Kind for PostgresKind {
    fn schemes(&self) -> &'static [&'static str] {
        &SCHEMES
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn check(&self, url: &str) -> Result<(), String> {
        let checked = Settings::from_url(url, "any", Duration::from_secs(15));
        checked.map(drop).map_err(SettingsError::expectation)
    }

    fn open(&self, place: &Place, instance: Arc<Instance>) -> Result<Arc<dyn RegistryBackend>, String> {
        let settings = settings(place).map_err(|error| error.to_string())?;
        Ok(Arc::new(Postgres::open(settings, instance)))
    }

    async fn inspect(&self, place: &Place) -> Result<Option<StoreReport>, BackendError> {
        match settings(place) {
            Ok(settings) => Postgres::inspect(settings).await.map(Some),
            Err(error) => Err(error.into_unavailable()),
        }
    }

    fn schema(&self) -> Option<String> {
        Some(schema::script())
    }
}
