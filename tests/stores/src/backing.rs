//! Stores of all kinds, as tests that are the same for each see them.

use crate::{Etcd, Postgres, Store};

/// What befalls a store of any kind.
pub trait Backing {
    /// Its URL, with all that is needed to get in.
    fn url(&self) -> String;
    /// Ends it at once.
    fn kill(&mut self);
    /// Starts it again after it was killed; nothing is left of what was in it.
    fn revive_empty(&mut self);
    /// Stalls it: it accepts connections and bytes, and does nothing.
    fn pause(&mut self);
    /// Lets it go on.
    fn resume(&mut self);
    /// Runs commands that only an administrator may, with `; ` between them.
    fn tell(&self, commands: &str);
}

impl Backing for Store {
    fn url(&self) -> String {
        self.url()
    }

    fn kill(&mut self) {
        self.kill();
    }

    fn revive_empty(&mut self) {
        self.revive();
    }

    fn pause(&mut self) {
        self.pause();
    }

    fn resume(&mut self) {
        self.resume();
    }

    fn tell(&self, commands: &str) {
        for command in commands.split("; ") {
            let _: redis::Value = self.query("", &command.split_whitespace().collect::<Vec<_>>());
        }
    }
}

impl Backing for Postgres {
    fn url(&self) -> String {
        self.url()
    }

    fn kill(&mut self) {
        self.kill();
    }

    fn revive_empty(&mut self) {
        self.restart_empty();
    }

    fn pause(&mut self) {
        Self::pause(self);
    }

    fn resume(&mut self) {
        Self::resume(self);
    }

    fn tell(&self, commands: &str) {
        commands.split("; ").for_each(|command| self.run(command));
    }
}

impl Backing for Etcd {
    fn url(&self) -> String {
        self.url()
    }

    fn kill(&mut self) {
        self.kill();
    }

    fn revive_empty(&mut self) {
        self.revive_empty();
    }

    fn pause(&mut self) {
        self.pause();
    }

    fn resume(&mut self) {
        self.resume();
    }

    fn tell(&self, commands: &str) {
        self.tell_as_root(commands);
    }
}
