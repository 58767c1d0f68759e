//! Files that settings name, on disks that may not answer.

use std::io;
use std::path::Path;
use std::time::Duration;

use tracing::warn;

use crate::admin::Token;
use crate::hosts_file::HostsFile;
use crate::orphans_file::OrphansFile;
use crate::printable::in_words;
use crate::settings::{Admin, Settings};
use crate::telemetry::{self, AuditLog};

/// How long the start waits for a disk.
const DISK_TIME: Duration = Duration::from_millis(500);

pub(super) fn read_token(settings: &Settings) -> Result<Option<Token>, String> {
    let token = settings.admin_token_file.as_deref().map(Token::read).transpose();
    token.map_err(|error| format!("admin-token-file: {error}"))
}

/// Checks the files that settings name as the start of a daemon does, and leaves them as they are.
///
/// # Errors
/// The same as the start's.
pub fn check_files(settings: &Settings) -> Result<(), String> {
    if settings.admin != Admin::Off {
        read_token(settings)?;
    }
    if let Some((path, file)) = settings.hosts_file.as_deref().zip(hosts_file(settings)) {
        let inetrc = file.inetrc();
        if let Some(Err(error)) = within_disk_time(move || inetrc.check()) {
            return Err(cannot_write_beside("hosts-file", path, &error));
        }
    }
    if let Some(path) = settings.orphans_file.clone() {
        let file = OrphansFile::new(path.clone());
        if let Some(Err(error)) = within_disk_time(move || file.check()) {
            return Err(cannot_write_beside("orphans-file", &path, &error));
        }
    }
    if let Some(path) = settings.audit_log.clone() {
        let checking = path.clone();
        if let Some(Err(error)) = within_disk_time(move || telemetry::check_audit_log(&checking)) {
            return Err(at_audit_log(&path, &error));
        }
    }
    Ok(())
}

fn cannot_write_beside(key: &str, path: &Path, error: &io::Error) -> String {
    format!("{key}: cannot write beside {}: {}", path.display(), in_words(error))
}

fn at_audit_log(path: &Path, error: &io::Error) -> String {
    format!("audit-log: cannot open {}: {}", path.display(), in_words(error))
}

/// The hosts file that settings name, before anything is written.
fn hosts_file(settings: &Settings) -> Option<HostsFile> {
    let (virtual_hosts, domains) =
        (settings.topology.virtual_hosts.clone(), settings.hosts_file_domains.clone());
    settings.hosts_file.as_deref().map(|path| HostsFile::new(path, virtual_hosts, domains))
}

/// The hosts file, if there is to be one.
///
/// # Errors
/// When it cannot be written. That a disk does not say so in time is only a warning.
pub(super) fn open_hosts_file(settings: &Settings) -> Result<Option<HostsFile>, String> {
    let Some((path, file)) = settings.hosts_file.as_deref().zip(hosts_file(settings)) else {
        return Ok(None);
    };
    let inetrc = file.inetrc();
    match within_disk_time(move || inetrc.write()) {
        Some(Err(error)) => {
            return Err(cannot_write_beside("hosts-file", path, &error));
        }
        Some(Ok(())) => {}
        None => {
            warn!(path = %path.display(), "the disk of the hosts file does not answer: it is written when it does");
        }
    }
    Ok(Some(file))
}

/// # Errors
/// When there is to be one, and it cannot be opened. That a disk does not say so in time is only a warning.
pub(super) fn open_audit_log(settings: &Settings) -> Result<Option<AuditLog>, String> {
    let Some(path) = settings.audit_log.clone() else { return Ok(None) };
    let opening = path.clone();
    match within_disk_time(move || telemetry::open_audit_log(&opening)) {
        Some(Ok(file)) => Ok(Some(AuditLog::Open(file))),
        Some(Err(error)) => Err(at_audit_log(&path, &error)),
        None => {
            warn!(path = %path.display(), "the disk of the audit log does not answer: lines wait until it does");
            Ok(Some(AuditLog::Later(path)))
        }
    }
}

/// Does something that a disk may hold up. `None`: it is not done yet, and goes on.
fn within_disk_time<T: Send + 'static>(something: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody may wait any longer.
        let _ = done.send(something());
    });
    wait.recv_timeout(DISK_TIME).ok()
}
