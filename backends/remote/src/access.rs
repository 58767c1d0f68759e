//! How to get in: login and TLS, as their files are at the moment.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::pulse::Fault;
use crate::url::{SettingsError, decode};

/// A file that the settings name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", .path.display())]
pub struct FileFault {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

impl FileFault {
    fn of(path: &Path, error: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), reason: error.to_string() }
    }
}

/// Who logs in. Shows no password.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// `None`: whoever the store takes without a name.
    pub user: Option<String>,
    password: Option<Password>,
}

#[derive(Clone, Debug)]
enum Password {
    Given(SecretString),
    File(PathBuf),
}

impl Login {
    /// Reads `USER:PASSWORD`, each of which may be missing.
    ///
    /// # Errors
    /// When one is not UTF-8 once it is decoded.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (text, None),
        };
        let user = decode(user, "the user")?;
        let password = password.filter(|password| !password.is_empty());
        let password = password.map(|password| decode(password, "the password")).transpose()?;
        Ok(Self {
            user: Some(user).filter(|user| !user.is_empty()),
            password: password.map(|password| Password::Given(password.into())),
        })
    }

    /// The password is what is in a file.
    ///
    /// # Errors
    /// When there is a password already.
    pub fn read_password_from(&mut self, path: PathBuf) -> Result<(), SettingsError> {
        if self.has_password() {
            return Err(SettingsError::new("the password", "either one in the URL or password_file"));
        }
        self.password = Some(Password::File(path));
        Ok(())
    }

    /// Whether there is a password, given or in a file.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The password as it is now. Reads its file.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn password(&self) -> Result<Option<SecretString>, FileFault> {
        match &self.password {
            None => Ok(None),
            Some(Password::Given(password)) => Ok(Some(password.clone())),
            Some(Password::File(path)) => {
                // Editors and `echo` end files with a newline.
                let text = SecretString::from(String::from_utf8_lossy(&read(path)?).into_owned());
                Ok(Some(text.expose_secret().trim_end_matches(['\r', '\n']).into()))
            }
        }
    }
}

/// The PEM files of TLS.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authorities to trust. `None`: the public ones.
    pub authority: Option<PathBuf>,
    /// The client's own certificate. With its key, or neither.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Whether a certificate is there without its key, or the other way round.
    #[must_use]
    pub fn is_half(&self) -> bool {
        self.certificate.is_some() != self.key.is_some()
    }

    /// What a client needs, from the files.
    ///
    /// # Errors
    /// When one of them cannot be read, or is none.
    pub fn client_config(&self) -> Result<ClientConfig, FileFault> {
        let mut roots = RootCertStore::empty();
        match &self.authority {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|error| FileFault::of(path, error))?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has the versions").with_root_certificates(roots);
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(config.with_no_client_auth());
        };
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| FileFault::of(key, error))?;
        let config = config.with_client_auth_cert(certificates(certificate)?, secret);
        config.map_err(|error| FileFault::of(certificate, error))
    }
}

/// A login and perhaps TLS. Their files are read for each connection, so that a renewed certificate or password needs
/// no restart.
#[derive(Clone, Debug)]
pub struct Access {
    /// Who logs in.
    pub login: Login,
    /// `None`: without TLS.
    pub tls: Option<Tls>,
    /// For whoever reads the files: one at a time, so that a disk that stands still holds one thread, however often
    /// another attempt is made.
    reading: Arc<Semaphore>,
}

/// What the files of an [`Access`] say at the moment.
#[derive(Clone)]
pub struct Opened {
    /// The password, if there is one.
    pub password: Option<SecretString>,
    /// What TLS needs, if it is used.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Access {
    /// That of one store.
    #[must_use]
    pub fn new(login: Login, tls: Option<Tls>) -> Self {
        Self { login, tls, reading: Arc::new(Semaphore::new(1)) }
    }

    /// The same with another login. Files are read in turn with those of this one.
    #[must_use]
    pub fn as_user(&self, login: &Login) -> Self {
        Self { login: login.clone(), ..self.clone() }
    }

    /// Looks whether the files can be read.
    ///
    /// # Errors
    /// At the first that cannot.
    pub fn check_files(&self) -> Result<(), SettingsError> {
        let unusable = |fault: FileFault| SettingsError::new(fault.to_string(), "a file that can be read");
        self.login.password().map_err(unusable)?;
        let Some(tls) = &self.tls else { return Ok(()) };
        for path in [&tls.authority, &tls.certificate, &tls.key].into_iter().flatten() {
            read(path).map_err(unusable)?;
        }
        Ok(())
    }

    /// Reads the files, on a thread that may wait for them.
    ///
    /// # Errors
    /// When one cannot be used.
    pub async fn open<F: Fault + From<FileFault>>(&self) -> Result<Opened, F> {
        let turn = Arc::clone(&self.reading).acquire_owned().await;
        let Self { login, tls, .. } = self.clone();
        let read = move || -> Result<Opened, FileFault> {
            let _turn = turn;
            let password = login.password()?;
            let tls = tls.as_ref().map(Tls::client_config).transpose()?;
            Ok(Opened { password, tls: tls.map(Arc::new) })
        };
        // The task fails only when the runtime ends.
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| F::silent())??)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileFault> {
    fs::read(path).map_err(|error| FileFault::of(path, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    all.map_err(|error| FileFault::of(path, error))
}
