//! The cases for stores, one module per group.

mod interleaving;
mod scene;

pub(crate) mod blocking;
pub(crate) mod dead_letters;
pub(crate) mod due;
pub(crate) mod enqueueing;
pub(crate) mod identifying;
pub(crate) mod inspecting;
pub(crate) mod leasing;
pub(crate) mod operating;
pub(crate) mod reading;
pub(crate) mod repairing;
pub(crate) mod settling;
