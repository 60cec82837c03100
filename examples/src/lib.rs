//! outbox-examples
