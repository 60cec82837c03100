//! What TLS trusts, and the certificate that we show.

use std::sync::Arc;

use outbox_core::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// The certificates of the settings, in PEM.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    /// Authorities to trust besides the platform's.
    pub(crate) authorities: Vec<String>,
    /// Our certificate with its chain, and its private key.
    pub(crate) identity: Option<(String, String)>,
}

impl Certificates {
    /// Makes the settings of TLS. `is_used` is `false` if no URL needs them. Then the platform's authorities are not
    /// read.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if certificates cannot be read, or there is no authority to trust.
    pub(crate) fn client_config(&self, is_used: bool) -> Result<ClientConfig> {
        let failed = |error: rustls::Error| Error::config("TLS cannot be set up").with_source(error);
        let mut roots = RootCertStore::empty();
        for pem in &self.authorities {
            for certificate in chain(pem, "authorities")? {
                roots.add(certificate).map_err(|error| {
                    Error::config("authorities holds a certificate that cannot be read").with_source(error)
                })?;
            }
        }
        if is_used {
            let platform = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(platform.certs);
            if roots.is_empty() {
                return Err(Error::config(
                    "there is no certificate authority to trust: the platform has none; install its root certificates, or set \
                     authorities",
                ));
            }
        }
        // The provider is named, so that nothing depends on what the program has installed.
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(failed)?
                .with_root_certificates(roots);
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
            // What the parser says may show parts of the key.
            Error::config("client_certificate has no private key in PEM format")
        })?;
        builder.with_client_auth_cert(chain(certificate, "client_certificate")?, key).map_err(|error| {
            Error::config("the key of client_certificate does not belong to it").with_source(error)
        })
    }
}

fn chain(pem: &str, setting: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => {
            Err(Error::config("a setting does not hold certificates in PEM format").with("setting", setting))
        }
    }
}
