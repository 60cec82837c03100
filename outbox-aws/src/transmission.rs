//! Whether a request had begun to leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

/// Knows of one call whether its request had begun to leave when the call ended.
///
/// Loading credentials, finding the endpoint and signing come before that, and their failures look much like those of
/// the network. Add a clone as an interceptor to the operation, and give the original to
/// [`sdk_error`](crate::sdk_error()). Use a new one for each call.
#[derive(Clone, Debug, Default)]
pub struct Transmission(Arc<AtomicBool>);

impl Transmission {
    /// For a call that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the request was handed to the HTTP client, in any attempt.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(crate) fn begun() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Intercept for Transmission {
    fn name(&self) -> &'static str {
        "OutboxTransmission"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}
