//! A server in a container, where an engine answers.

use std::path::Path;

use rustix::process::{getgid, getuid};
use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::runtime::{Builder, Runtime};

/// The image of Redis, unless the variable names another as `NAME:TAG`. It is pulled if it is missing.
const IMAGE: &str = "redis:7";
const VARIABLE: &str = "REPMD_TEST_REDIS_IMAGE";

/// A container that shares this machine's network, so that it is used as a process of this machine is.
#[derive(Debug)]
pub(crate) struct Contained {
    /// `None` only while it is dropped.
    container: Option<ContainerAsync<GenericImage>>,
}

impl Contained {
    /// Starts Redis with these arguments in a container that sees `folder`.
    ///
    /// # Errors
    /// Why there is no container: most often, no engine.
    pub(crate) fn start(arguments: &[String], folder: &Path) -> Result<Self, String> {
        let image = std::env::var(VARIABLE).unwrap_or_else(|_| IMAGE.to_owned());
        let (name, tag) = image.rsplit_once(':').ok_or_else(|| format!("{image} is not NAME:TAG"))?;
        let folder = folder.to_str().expect("the folder's name is a text");
        // As this user, and past the image's own start, which changes to one that may not write to the folder.
        let user = format!("{}:{}", getuid().as_raw(), getgid().as_raw());
        let request = GenericImage::new(name, tag)
            .with_entrypoint("redis-server")
            .with_network("host")
            .with_user(user)
            .with_mount(Mount::bind_mount(folder, folder))
            .with_cmd(arguments);
        let started = apart(|runtime| runtime.block_on(request.start()));
        Ok(Self { container: Some(started.map_err(|error| error.to_string())?) })
    }

    pub(crate) fn pause(&self) {
        apart(|runtime| runtime.block_on(self.container().pause())).expect("the engine pauses a container");
    }

    pub(crate) fn resume(&self) {
        apart(|runtime| runtime.block_on(self.container().unpause())).expect("the engine lets it go on");
    }

    fn container(&self) -> &ContainerAsync<GenericImage> {
        self.container.as_ref().expect("it is there until this is dropped")
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if let Some(container) = self.container.take()
            && let Err(error) = apart(|runtime| runtime.block_on(container.rm()))
        {
            // Not a panic: this may run while a test unwinds.
            eprintln!("a container is left behind: {error}");
        }
    }
}

/// Runs `work` on a thread of its own: that of a test may be in a runtime, which another cannot be in.
fn apart<T: Send>(work: impl FnOnce(&Runtime) -> T + Send) -> T {
    let on_runtime =
        || work(&Builder::new_current_thread().enable_all().build().expect("a runtime can be made"));
    std::thread::scope(|scope| {
        scope.spawn(on_runtime).join().expect("the client of the engine does not panic")
    })
}
