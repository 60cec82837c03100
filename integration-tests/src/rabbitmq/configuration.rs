//! The configuration of a broker for tests, in a process as in a container.

use crate::environment::Environment;

/// Additional lines for rabbitmq.conf.
pub(super) const CONF: &str = "OUTBOX_TEST_RABBITMQ_CONF";

/// The arguments of the Erlang runtime: a few threads, which do not spin while they are idle.
pub(super) const ERLANG: &str = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";

const SETTINGS: &str = "loopback_users = none
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
";

/// The lines of rabbitmq.conf that do not depend on where the broker runs.
pub(super) fn settings(environment: &Environment) -> String {
    format!("{SETTINGS}{}\n", environment.get(CONF).unwrap_or_default())
}
