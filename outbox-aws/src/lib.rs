#![doc = include_str!("../README.md")]

mod call;
mod hashed;
mod meaning;
mod pack;
mod sdk_error;
mod transmission;

pub use call::{Call, Failure, Stop};
pub use hashed::hashed;
pub use meaning::Meaning;
pub use pack::{Limits, pack};
pub use sdk_error::{knows_us, sdk_error};
pub use transmission::Transmission;
