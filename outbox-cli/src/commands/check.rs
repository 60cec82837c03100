//! `outbox config check`: what is set, and from where.

use crate::config::Config;
use crate::exit::Failure;
use crate::output;

/// Shows settings that were found to be right; what is wrong with them was told when they were read.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    output::data(&config.explanation)?;
    for route in &config.routes {
        output::data(format_args!(
            "route {}: {} to {}\n",
            route.name,
            route.store.place(),
            route.publisher.place()
        ))?;
    }
    output::noteln(
        "The configuration is valid. No connection was made; `outbox doctor` checks the connections.",
    );
    Ok(())
}
