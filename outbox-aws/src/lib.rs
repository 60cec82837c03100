#![doc = include_str!("../README.md")]

mod meaning;
mod pack;
mod sdk_error;
mod transmission;

pub use meaning::Meaning;
pub use pack::{Limits, pack};
pub use sdk_error::sdk_error;
pub use transmission::Transmission;
