//! The cases for publishers, one module per group.

mod scene;

pub(crate) mod answering;
pub(crate) mod failing;
pub(crate) mod publishing;
pub(crate) mod rejecting;
