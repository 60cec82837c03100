//! Certificates of encrypted connections.

use std::fmt;
use std::sync::Arc;

use outbox_core::{Error, Result};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Certificates for encrypted connections, as PEM. Start from [`Tls::new`], which trusts the authorities of the platform and
/// shows no certificate.
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Option<String>,
    identity: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl Tls {
    /// Trusts the authorities of the platform, and shows no certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities with these certificates besides those of the platform.
    #[must_use]
    pub fn authorities(mut self, pem: impl Into<String>) -> Self {
        self.authorities = Some(pem.into());
        self
    }

    /// Shows this certificate to the server, with its private key.
    #[must_use]
    pub fn identity(mut self, certificate_pem: impl Into<String>, key_pem: impl Into<String>) -> Self {
        self.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// Reads the PEM, but not the authorities of the platform.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config).
    pub(crate) fn read(&self) -> Result<Certificates> {
        let authorities = match &self.authorities {
            Some(pem) => certificates(pem, "authorities")?,
            None => Vec::new(),
        };
        let identity = match &self.identity {
            Some((certificate, key)) => {
                let chain = certificates(certificate, "identity")?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
                    // Nothing of the key belongs in an error.
                    Error::config("the private key is not PEM of the kinds PKCS#8, PKCS#1 or SEC1")
                })?;
                Some((chain, key))
            }
            None => None,
        };
        let certificates = Certificates { authorities, identity };
        // Authorities that cannot be used, and a key that belongs to another certificate, are found now.
        certificates.check()?;
        Ok(certificates)
    }
}

fn certificates(pem: &str, setting: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    let read: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| {
            Error::config("a certificate is not PEM").with("setting", setting).with_source(error)
        })?;
    if read.is_empty() {
        return Err(Error::config("the PEM has no certificate").with("setting", setting));
    }
    Ok(read)
}

/// Certificates that have been read.
pub(crate) struct Certificates {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl fmt::Debug for Certificates {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("authorities", &self.authorities.len()).finish_non_exhaustive()
    }
}

impl Certificates {
    fn check(&self) -> Result<()> {
        self.config(self.roots()?).map(drop)
    }

    /// The configuration of connections. It reads the authorities of the platform, which takes some milliseconds.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config).
    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        let mut roots = self.roots()?;
        // A platform may have none at all, such as a small container image, or some that cannot be used. Then the server's
        // certificate is refused, with a reason.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        self.config(roots)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.authorities {
            roots.add(certificate.clone()).map_err(unusable)?;
        }
        Ok(roots)
    }

    fn config(&self, roots: RootCertStore) -> Result<ClientConfig> {
        // Not the provider of the process: if the process has none, the client library panics.
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        match &self.identity {
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(unusable)
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

fn unusable(error: rustls::Error) -> Error {
    Error::config("the certificates cannot be used").with_source(error)
}
