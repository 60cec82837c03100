//! `outbox purge`: what was kept after its delivery, and is old enough to go.

use crate::cli::PurgeArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::outboxes;
use crate::output::noteln;

pub(crate) async fn run(config: &Config, args: &PurgeArgs) -> Result<(), Failure> {
    let route = outboxes::only(config, args.route.route.as_deref())?;
    let opened = outboxes::open(route).await?;
    let mut purged = 0;
    let result = loop {
        match opened.store.purge(args.older_than, args.batch).await {
            Ok(number) => {
                purged += number;
                if number < args.batch as u64 {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    opened.outbox.close().await;
    if result.is_ok() || purged > 0 {
        noteln(format_args!("{}: purged {purged} delivered messages", route.name));
    }
    Ok(result?)
}
