//! The standalone relay of the transactional outbox, and the commands to look after it.

use std::process::ExitCode;

fn main() -> ExitCode {
    outbox_cli::main()
}
