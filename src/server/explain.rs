//! How this daemon answers for a name, and from where: what a look-up does, for people who ask why.

use super::daemon::Daemon;
use super::resolve::Resolution;
use crate::registry::{Answer, Source, Told};

impl Daemon {
    /// Looks `name` up as it stands in a request to an address of this daemon that is no virtual host's: what other
    /// machines are told.
    pub async fn explain(&self, name: &str) -> Told {
        let here = |answer| Told { answer, source: Source::Here, asked: None };
        match self.resolve(name, || None) {
            Resolution::Here(registration) | Resolution::HereByFullName(registration) => {
                here(Answer::Node(registration))
            }
            Resolution::Registry(question, _) => self.registry.look_up(&question, None).await,
            Resolution::Nobody => here(Answer::Absent),
        }
    }
}
