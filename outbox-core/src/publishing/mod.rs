//! Parts for those who write a publisher: what ours would otherwise each have of their own.

mod outcomes;
mod routing;
mod settings;

pub use outcomes::{answered, complete, is_throttled};
pub use routing::Routing;
pub use settings::{check_limits, check_timeout};
