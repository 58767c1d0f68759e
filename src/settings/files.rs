//! Files that the daemon keeps for its nodes.

use std::path::PathBuf;

use repmd_backend_api::HostId;

use super::backend::Backend;
use super::parsing::{Form, PATH, list_of};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;

pub(super) const ORPHANS_FILE: Row<PathBuf> = Row {
    key: "orphans-file",
    variables: &["REPMD_ORPHANS_FILE"],
    form: PATH,
    help: "Remember the nodes in this file, and answer after a restart for those that do not come back by themselves, while something listens at their port",
    default: "none",
};

pub(super) const HOSTS_FILE: Row<PathBuf> = Row {
    key: "hosts-file",
    variables: &["REPMD_HOSTS_FILE"],
    form: PATH,
    help: "Write the addresses of the cluster's hosts into this file, for nodes without DNS, and an inetrc beside it",
    default: "none",
};

pub(super) const HOSTS_FILE_DOMAINS: Row<Vec<HostId>> = Row {
    key: "hosts-file-domains",
    variables: &["REPMD_HOSTS_FILE_DOMAINS"],
    form: Form {
        value: "DOMAIN,...",
        expected: "domains such as cluster.example, separated by commas",
        parse: |text| list_of(text, |domain| HostId::parse(domain.trim_start_matches('.')).ok()),
    },
    help: "Write other hosts' names into it only if they are in these domains, or have no dot",
    default: "any name",
};

/// The hosts file, and whose names are written there; `None`: all.
pub(super) fn hosts_file(
    values: &Reader<'_>,
    backend: &Backend,
) -> Result<(Option<PathBuf>, Option<Vec<HostId>>), SettingError> {
    let (path, domains) = (values.chosen(&HOSTS_FILE)?, values.chosen(&HOSTS_FILE_DOMAINS)?);
    if path.is_some() && !backend.is_shared() {
        let expected = "backend to be a shared store: only there are other hosts";
        return Err(values.wrong(&HOSTS_FILE, expected));
    }
    Ok((path, domains))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;
    use super::super::backend::BACKEND;
    use super::super::tests::{check, merge};

    #[test]
    fn a_hosts_file_needs_a_registry_with_other_hosts() {
        let file = ("hosts-file", "/run/repmd/hosts");
        let error = check(&[file], &[], "").unwrap_err().to_string();
        assert!(error.ends_with("backend to be a shared store: only there are other hosts"), "{error}");
        let values = merge(&[file, ("backend", "redis://10.0.0.9")], &[], "").unwrap();
        let settings = Settings::check(&values, 1024, &|url| Ok(url != BACKEND.default)).unwrap();
        assert_eq!(settings.hosts_file.as_deref(), Some(Path::new("/run/repmd/hosts")));
    }
}
