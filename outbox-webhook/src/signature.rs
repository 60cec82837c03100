//! Signatures of the Standard Webhooks specification: <https://github.com/standard-webhooks/standard-webhooks>.

use std::fmt;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use outbox_core::{Error, Result};

/// Begins a secret for symmetric signatures.
const PREFIX: &str = "whsec_";
/// In bytes, decoded: the range of the specification.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets are written with and without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Signs requests with one secret, or with two while a receiver changes from one to the other.
#[derive(Clone, Default)]
pub(crate) struct Signer {
    keys: Vec<Key>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("secrets", &self.keys.len()).finish()
    }
}

impl Signer {
    /// Reads secrets, the current one first.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if there are more than two, or a string is not a secret. The error
    /// does not show it.
    pub(crate) fn new(secrets: &[impl AsRef<str>]) -> Result<Self> {
        if secrets.len() > 2 {
            return Err(Error::config("there are more than two secrets; keep the new one and the old one"));
        }
        let keys: Result<_> = secrets.iter().map(|secret| key(secret.as_ref())).collect();
        Ok(Self { keys: keys? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the value of `webhook-signature`: a signature for each secret, separated by spaces.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp}.");
        let mut value = String::new();
        for key in &self.keys {
            let mut context = Context::with_key(key);
            context.update(head.as_bytes());
            context.update(body);
            let separator = if value.is_empty() { "" } else { " " };
            let signature = general_purpose::STANDARD.encode(context.sign());
            // A string takes everything.
            let _ = write!(value, "{separator}v1,{signature}");
        }
        value
    }
}

fn key(secret: &str) -> Result<Key> {
    let bytes = secret.strip_prefix(PREFIX).and_then(|text| LENIENT.decode(text).ok());
    match bytes {
        Some(bytes) if LENGTHS.contains(&bytes.len()) => Ok(Key::new(HMAC_SHA256, &bytes)),
        _ => Err(Error::config(
            "a secret is invalid; expected whsec_ followed by 24 to 64 bytes in base64, such as the output of \
             `echo whsec_$(openssl rand -base64 32)`",
        )),
    }
}

/// Returns the present in seconds since 1970, as the specification has it.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the reference libraries of the specification test themselves with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn encoded(bytes: usize) -> String {
        format!("{PREFIX}{}", general_purpose::STANDARD.encode(vec![7; bytes]))
    }

    #[test]
    fn the_signature_is_that_of_the_reference_libraries() {
        assert_eq!(Signer::new(&[SECRET]).unwrap().sign(ID, TIMESTAMP, BODY), SIGNATURE);
    }

    #[test]
    fn id_timestamp_and_body_each_change_the_signature() {
        let signer = Signer::new(&[SECRET]).unwrap();
        for other in [
            signer.sign("msg_other", TIMESTAMP, BODY),
            signer.sign(ID, TIMESTAMP + 1, BODY),
            signer.sign(ID, TIMESTAMP, b"other"),
        ] {
            assert_ne!(other, SIGNATURE);
        }
    }

    #[test]
    fn during_a_rotation_both_secrets_sign_and_the_current_one_comes_first() {
        let (new, old) = (encoded(24), encoded(64));
        let both = Signer::new(&[&*new, &old]).unwrap().sign(ID, TIMESTAMP, BODY);
        let of = |secret: &str| Signer::new(&[secret]).unwrap().sign(ID, TIMESTAMP, BODY);
        assert_eq!(both, format!("{} {}", of(&new), of(&old)));
    }

    #[test]
    fn padding_may_be_left_out() {
        let padded = encoded(25);
        let bare = padded.trim_end_matches('=');
        assert_ne!(bare, padded);
        let of = |secret: &str| Signer::new(&[secret]).unwrap().sign(ID, TIMESTAMP, BODY);
        assert_eq!(of(bare), of(&padded));
    }

    #[test]
    fn an_invalid_secret_is_refused_and_not_shown() {
        for secret in [
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_",
            "whsec_not base64, s3cret",
            "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            &encoded(23),
            &encoded(65),
        ] {
            let error = Signer::new(&[secret]).unwrap_err();
            assert_eq!(error.kind(), outbox_core::ErrorKind::Config);
            assert!(!error.report().contains(&secret[6..]) || secret == "whsec_", "{}", error.report());
        }
        let signer = format!("{:?}", Signer::new(&[SECRET]).unwrap());
        assert_eq!(signer, "Signer { secrets: 1 }");
    }
}
