#![doc = include_str!("../README.md")]

pub mod brokers;
pub mod contenders;
pub mod databases;
pub mod line;
pub mod load;
pub mod options;
pub mod report;
pub mod scenarios;
pub mod servers;
pub mod statements;
pub mod stats;
pub mod verify;
