//! The `nettlp-gdb` program.

use std::process::ExitCode;

use clap::Parser;
use nettlp_gdb::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    cli::exit_code(cli::run(&cli))
}
