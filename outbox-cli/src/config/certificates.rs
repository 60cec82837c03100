//! Files with certificates and private keys, looked into before anything connects.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Section;

impl Section<'_> {
    /// The PEM file with certificate authorities that a field names.
    pub(crate) fn authorities(&self, name: &str) -> Option<String> {
        let text = self.file(name)?;
        self.checked(name, authorities(&text)).then_some(text)
    }

    /// The PEM files with a certificate of our own and its private key, which two fields name.
    pub(crate) fn identity(&self, certificate: &str, key: &str) -> Option<(String, String)> {
        for (name, other) in [(certificate, key), (key, certificate)] {
            if self.has(name) && !self.has(other) {
                self.any_text(name);
                self.known(other);
                self.fault_in(name, format!("has no effect without {other}"));
                return None;
            }
        }
        let (certificates, private) = (self.file(certificate), self.file(key));
        let (certificates, private) = (certificates?, private?);
        let chain = check_certificates(&certificates);
        let found = PrivateKeyDer::from_pem_slice(private.as_bytes());
        let key_found = match &found {
            Ok(_) => Ok(()),
            Err(_) if private.trim().is_empty() => Err("is empty".to_owned()),
            Err(error) => Err(format!("does not hold a private key in PEM format: {error}")),
        };
        let (chain_good, key_good) = (
            self.checked(certificate, chain.as_ref().map(|_| ()).map_err(Clone::clone)),
            self.checked(key, key_found),
        );
        let (true, true, Ok(chain), Ok(found)) = (chain_good, key_good, chain, found) else { return None };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let accepted = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_root_certificates(RootCertStore::empty()).with_client_auth_cert(chain, found)
            });
        let accepted =
            accepted.map_err(|error| format!("does not belong to the certificate of {certificate}: {error}"));
        self.checked(key, accepted.map(drop)).then_some((certificates, private))
    }

    fn file(&self, name: &str) -> Option<String> {
        let path = self.any_text(name)?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.fault_in(name, format!("the file {path} cannot be read: {error}"));
                None
            }
        }
    }

    fn checked(&self, name: &str, found: Result<(), String>) -> bool {
        match found {
            Ok(()) => true,
            Err(problem) => {
                self.fault_in(name, format!("the file {problem}"));
                false
            }
        }
    }
}

fn authorities(text: &str) -> Result<(), String> {
    if PrivateKeyDer::from_pem_slice(text.as_bytes()).is_ok() {
        return Err("holds a private key, which does not belong to certificate authorities".to_owned());
    }
    let mut store = RootCertStore::empty();
    for certificate in check_certificates(text)? {
        store
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
    }
    Ok(())
}

fn check_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err("does not hold a certificate in PEM format".to_owned())
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("is not valid PEM: {error}")),
    }
}
