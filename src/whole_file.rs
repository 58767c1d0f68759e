//! Files that are there whole or not at all, and what a disk may hold up.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{Access, access};
use tempfile::NamedTempFile;

/// Writes a file, and gives it this mode.
///
/// # Errors
/// When it cannot be written; what was there stays.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder(path)?)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.persist(path)?;
    Ok(())
}

/// Whether it could be written. It is left as it is.
///
/// # Errors
/// When files cannot be written beside it.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    Ok(access(folder(path)?, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Does something that a disk may hold up, on another thread: the event loop serves the wire, too.
pub(crate) async fn beside<T: Send + 'static>(
    something: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(something).await.map_err(io::Error::other)?
}

fn folder(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
