//! A queue of RabbitMQ with a consumer.

pub(crate) mod fixture;
