//! All there is to the program `outbox`, for the program itself and for the fuzz targets of its settings.
//!
//! **This is no public API.** The command line, the settings and what is served by HTTP are; they are described in the
//! README of this crate. Whatever is public here may change or go in any version.

// A program with fewer adapters needs fewer of the parts that they share.
#![cfg_attr(
    not(all(
        feature = "amqp",
        feature = "kinesis",
        feature = "mssql",
        feature = "mysql",
        feature = "nats",
        feature = "postgres",
        feature = "pubsub",
        feature = "sqlite",
        feature = "sqs",
        feature = "webhook"
    )),
    allow(dead_code, unused_imports, unused_macros)
)]

mod cli;
mod commands;
mod conditions;
mod config;
mod exit;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod logging;
mod outboxes;
mod output;
mod publishers;
mod stores;
mod telemetry;
mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

/// Does what the command line of this process says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::choose_colors(cli.color);
    // The libraries leave the choice of a crypto provider to the program. It fails only if there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(cli));
            // What is left are connections that nobody waits for.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(exit::Failure::failed(format!("the runtime cannot be started: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.code()
        }
    }
}
