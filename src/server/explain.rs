//! How this daemon answers for a name, and from where: what a look-up does, for people who ask why.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::Registration;

use super::daemon::Daemon;
use crate::registry::{Answer, Question, Source};

/// An answer and where it came from.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What other machines are told.
    pub answer: Answer,
    /// Where that is known from.
    pub source: Source,
    /// How long ago the registry was asked for it; `None` when it was not.
    pub age: Option<Duration>,
}

impl Daemon {
    /// Looks `name` up as it stands in a request to an address of this daemon that is no virtual host's.
    pub async fn explain(&self, name: &str) -> Explained {
        let here = |answer| Explained { answer, source: Source::Here, age: None };
        if let Some(registration) = self.registered_as(name) {
            return here(Answer::Node(registration));
        }
        let Some(question) = Question::parse(name) else { return here(Answer::Absent) };
        if let Question::On(host, alive) = &question
            && self.registry.instance().answers_to(host)
            && let Some(registration) = self.registered_as(alive.as_str())
        {
            return here(Answer::Node(registration));
        }
        let (answer, source, age) = self.registry.explain(question).await;
        Explained { answer, source, age }
    }

    fn registered_as(&self, name: &str) -> Option<Arc<Registration>> {
        self.table().find(name).cloned()
    }
}
