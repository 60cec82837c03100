//! What is wrong with the settings, for people.

use std::cell::RefCell;
use std::fmt;

use super::tree::Origin;

/// One thing that is wrong with the settings, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    origin: Origin,
    field: String,
    problem: String,
}

impl Fault {
    pub(crate) fn new(origin: Origin, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { origin, field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

/// All that was found so far: whoever repairs a file wants to hear of everything at once.
#[derive(Debug, Default)]
pub(crate) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.0.borrow_mut().push(fault);
    }

    /// Everything that was found, or what was made if that is nothing.
    pub(crate) fn or<T>(self, made: Option<T>) -> Result<T, Vec<Fault>> {
        let faults = self.0.into_inner();
        match made {
            Some(made) if faults.is_empty() => Ok(made),
            _ => Err(faults),
        }
    }
}
