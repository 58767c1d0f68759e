//! The kinds of registry that a program has. Nothing else in the program knows one.

use std::sync::Arc;

use repmd_backend_api::{BackendError, Instance, Kind, Place, RegistryBackend, StoreReport};

use crate::printable::in_words;
use crate::settings::Settings;

/// The kinds of registry that a program has.
#[derive(Clone, Copy, Debug)]
pub struct Kinds<'a>(pub &'a [&'a dyn Kind]);

impl<'a> Kinds<'a> {
    /// The one that has the scheme of a URL, or whose word it is.
    fn of(self, url: &str) -> Option<&'a dyn Kind> {
        let scheme = url.split(':').next().unwrap_or_default();
        self.0.iter().copied().find(|kind| kind.schemes().contains(&scheme))
    }

    /// Checks the URL of a registry without asking it. Returns whether daemons share it.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn check(self, url: &str) -> Result<bool, String> {
        let Some(kind) = self.of(url) else {
            let written = |kind: &&dyn Kind| {
                let mark = if kind.is_shared() { "://" } else { "" };
                kind.schemes().iter().map(|scheme| format!("{scheme}{mark}")).collect::<Vec<_>>().join(", ")
            };
            return Err(format!("one of {}", self.0.iter().map(written).collect::<Vec<_>>().join(", ")));
        };
        kind.check(url).map(|()| kind.is_shared()).map_err(|expected| in_words(&expected))
    }

    /// Opens the registry that checked settings name, for one run of one daemon. Called once the event loop runs; does
    /// not wait for a store.
    ///
    /// # Errors
    /// What has changed since the check, such as a file that is gone.
    pub fn open(
        self,
        settings: &Settings,
        instance: Arc<Instance>,
    ) -> Result<Arc<dyn RegistryBackend>, String> {
        let place = place(settings);
        let kind =
            self.of(&place.url).ok_or_else(|| format!("no kind of registry for {}", settings.backend))?;
        kind.open(&place, instance).map_err(|error| in_words(&error))
    }

    /// What an operator may run in a store of this kind beforehand; `kind` is what its URLs begin with.
    ///
    /// # Errors
    /// Which kinds have something to run.
    pub fn schema(self, kind: &str) -> Result<String, String> {
        let found = self.of(kind).and_then(Kind::schema);
        found.ok_or_else(|| {
            let with = self.0.iter().filter(|kind| kind.schema().is_some());
            let names: Vec<_> = with.filter_map(|kind| kind.schemes().first()).copied().collect();
            format!("no store of kind {kind:?} has to be prepared; these have: {}", names.join(", "))
        })
    }

    /// Asks the store that checked settings name how it is, within a few seconds. `None`: they name none.
    ///
    /// # Errors
    /// As [`Kind::inspect`].
    pub async fn inspect(self, settings: &Settings) -> Result<Option<StoreReport>, BackendError> {
        let place = place(settings);
        match self.of(&place.url) {
            Some(kind) => kind.inspect(&place).await,
            None => Ok(None),
        }
    }
}

fn place(settings: &Settings) -> Place {
    Place {
        url: settings.backend.url().to_owned(),
        cluster: settings.cluster.clone(),
        lease_ttl: settings.lease_ttl,
    }
}
