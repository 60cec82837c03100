//! `outbox migrate`: the tables.

use crate::cli::MigrateArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::{outboxes, output};

pub(crate) async fn run(config: &Config, args: &MigrateArgs) -> Result<(), Failure> {
    let names: Vec<_> = args.route.route.iter().cloned().collect();
    for route in outboxes::select(config, &names)? {
        if args.print {
            output::data(format_args!("{}\n", route.store.ddl().trim_end()))?;
            continue;
        }
        let opened = outboxes::open(route).await.map_err(|error| Failure::from(error).of(&route.name))?;
        let migrated = opened.outbox.migrate().await;
        opened.outbox.close().await;
        migrated.map_err(|error| Failure::from(error).of(&route.name))?;
        output::noteln(format_args!("{}: the tables are up to date ({})", route.name, route.store.place()));
    }
    Ok(())
}
