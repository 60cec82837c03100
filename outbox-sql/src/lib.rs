#![doc = include_str!("../README.md")]

pub mod dead_letters;
pub mod inbox;
pub mod outboxer;
pub mod partitions;
pub mod postgres;
pub mod row;
pub mod schema;
pub mod sessions;
pub mod settle;
pub mod sightings;
pub mod text;
pub mod trace;
pub mod values;
