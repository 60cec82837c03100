//! The cases for inboxes.

pub(crate) mod accepting;
pub(crate) mod forgetting;
