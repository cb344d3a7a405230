//! The command line: parse, open a session, run one command, exit with its code.
//!
//! One file per command in [`cmd`]. [`out`] is the only writer to stdout; progress and logs go to stderr.
//! Exit codes: 0 done, 1 failed, 2 usage, 3 partial result, 130 ended by the user before it was done.

mod cmd;
mod file;
mod out;
mod progress;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use out::BrokenPipe;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for is there.
    Done,
    /// Something is missing, and stderr says what.
    Partial,
    /// Ended by a signal before it was done; what there is, is sound.
    Interrupted,
}

/// Arguments that parse and yet make no sense together: exit code 2, as clap's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(
    name = "nettlp-gdb",
    version,
    about = "Debug a Linux host you cannot log in to: its memory, read by DMA, as a GDB target",
    after_help = EXAMPLES,
    max_term_width = 100
)]
pub struct Cli {
    /// Log more (repeat for more; RUST_LOG wins)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// No progress on stderr
    #[arg(short, long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Serve a host behind a NetTLP adapter to gdb, and look at it:
    nettlp-gdb serve --adapter 192.168.10.1 --requester 1b:00.0 --vmlinux vmlinux
    gdb vmlinux -ex 'target remote :1234' -ex 'source scripts/nettlp-gdb.py' -ex lx-ps
  Its processes and its log, without gdb:
    nettlp-gdb ps --adapter 192.168.10.1 --requester 1b:00.0 --vmlinux vmlinux
    nettlp-gdb dmesg --profile host.toml
  A memory image instead of a host (here 8 GiB of a virtual machine with a hole below 4 GiB):
    nettlp-gdb info --image ram@0,len=2G --image ram@4G,offset=2G,len=6G
  Try it without hardware and without a kernel:
    nettlp-gdb demo

Exit codes: 0 done, 1 failed, 2 usage, 3 partial result, 130 ended by Ctrl-C before it was done";

const SERVE_EXAMPLES: &str = "\
Examples:
  nettlp-gdb serve --profile host.toml
  nettlp-gdb serve --image ram --vmlinux vmlinux --listen unix:/run/user/1000/host.sock
  (gdb) target remote | nettlp-gdb serve --stdio --profile host.toml";

const INFO_EXAMPLES: &str = "\
Examples:
  nettlp-gdb info --adapter 192.168.10.1 --requester 1b:00.0
  nettlp-gdb info --image host.elf --json | jq .ram";

const PS_EXAMPLES: &str = "\
Examples:
  nettlp-gdb ps --profile host.toml --tree
  nettlp-gdb ps --profile host.toml --cross-view
  nettlp-gdb ps --image host.elf --vmlinux vmlinux --threads --json | jq 'select(.state == \"D\")'";

const PROCESS_EXAMPLES: &str = "\
Examples:
  nettlp-gdb process --profile host.toml 871
  nettlp-gdb process --image host.elf 871 --json | jq .cwd";

const MAPS_EXAMPLES: &str = "\
Examples:
  nettlp-gdb maps --profile host.toml 871
  nettlp-gdb maps --image host.elf 871 --json | jq 'select(.permissions | startswith(\"rwx\"))'";

const FILES_EXAMPLES: &str = "\
Examples:
  nettlp-gdb files --profile host.toml 871
  nettlp-gdb files --image host.elf 871 --json | jq -r .path | grep deleted";

const CMDLINE_EXAMPLES: &str = "\
Examples:
  nettlp-gdb cmdline --profile host.toml 871
  nettlp-gdb environ --image host.elf 871 --json | jq -r '.environ[]'";

const BT_EXAMPLES: &str = "\
Examples:
  What the CPUs of a host were doing when it panicked, with source lines:
    nettlp-gdb bt --profile host.toml --vmlinux vmlinux
  One thread; every thread that waits for a lock:
    nettlp-gdb bt --profile host.toml 871
    nettlp-gdb bt --image host.elf --all --json | jq 'select(any(.frames[]; .function == \"mutex_lock\"))'";

const DMESG_EXAMPLES: &str = "\
Examples:
  nettlp-gdb dmesg --profile host.toml | tail
  nettlp-gdb dmesg --image host.elf --vmlinux vmlinux --json | jq 'select(.level <= 3)'";

const SYMBOLS_EXAMPLES: &str = "\
Examples:
  nettlp-gdb symbols --profile host.toml -o vmlinux
  gdb vmlinux -ex 'target remote :1234'
  pahole -C task_struct vmlinux
  nettlp-gdb symbols --list --profile host.toml | grep ' T schedule$'
  nettlp-gdb symbols --list --image host.elf --json | jq -r 'select(.letter == \"T\").name'";

const READ_EXAMPLES: &str = "\
Examples:
  nettlp-gdb read --profile host.toml init_task 64
  nettlp-gdb read --profile host.toml --phys 0x9c000 4k --raw > page
  nettlp-gdb read --profile host.toml --pid 871 0x7ffd3a91e000 64";

const WRITE_EXAMPLES: &str = "\
The profile names what may be written, in physical addresses:
  [memory]
  write = ['0x1a4c0e8-0x1a4c0ec']
Every write is read back; one that was lost is reported and never sent again.

Examples:
  nettlp-gdb translate --profile host.toml panic_timeout
  nettlp-gdb write --profile host.toml --allow-write panic_timeout 0a000000";

const TRANSLATE_EXAMPLES: &str = "\
Examples:
  nettlp-gdb translate --profile host.toml init_task
  nettlp-gdb translate --profile host.toml 0xffffffff81000000
  nettlp-gdb translate --profile host.toml --pid 871 0x7ffd3a91e000";

const EMULATE_EXAMPLES: &str = "\
Examples:
  nettlp-gdb emulate --image ram
  nettlp-gdb emulate --image ram@0,len=2G --image ram@4G,offset=2G --latency-us 12 --loss 0.01 --seed 7
  nettlp-gdb emulate --machine thesis-running --requester 02:00.0 --write-vmlinux vmlinux";

const DEMO_EXAMPLES: &str = "\
Examples:
  nettlp-gdb demo
  nettlp-gdb demo --tasks 10000 --latency-us 12";

const BENCH_EXAMPLES: &str = "\
Examples:
  nettlp-gdb bench --image host.elf --vmlinux vmlinux
  nettlp-gdb bench --image ram --latency-us 12 --tags 256 --json";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the host's memory to gdb
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(cmd::serve::Args),
    /// Say which kernel runs there, where it is, and how that was found
    #[command(after_help = INFO_EXAMPLES)]
    Info(target::Listing),
    /// List processes
    #[command(after_help = PS_EXAMPLES)]
    Ps(cmd::ps::Args),
    /// Print everything known of a process: whose, since when, CPU time, children, directories
    #[command(after_help = PROCESS_EXAMPLES)]
    Process(target::OneProcess),
    /// List the mappings of a process, as /proc/PID/maps does
    #[command(after_help = MAPS_EXAMPLES)]
    Maps(target::OneProcess),
    /// List the open files of a process
    #[command(after_help = FILES_EXAMPLES)]
    Files(target::OneProcess),
    /// Print the arguments of a process
    #[command(after_help = CMDLINE_EXAMPLES)]
    Cmdline(cmd::cmdline::Args),
    /// Print the environment of a process, as it was when the process began
    #[command(after_help = CMDLINE_EXAMPLES)]
    Environ(cmd::cmdline::Args),
    /// Show which functions tasks are in, sleeping or halted by a panic
    #[command(after_help = BT_EXAMPLES)]
    Bt(cmd::bt::Args),
    /// Print the kernel log
    #[command(after_help = DMESG_EXAMPLES)]
    Dmesg(target::Listing),
    /// List loaded modules
    Modules(target::Listing),
    /// Make a vmlinux from the host's own memory, for gdb, drgn and pahole; or list the kernel's symbols
    #[command(after_help = SYMBOLS_EXAMPLES)]
    Symbols(cmd::symbols::Args),
    /// Recover the kernel's configuration (.config)
    Kconfig(cmd::kconfig::Args),
    /// Print memory
    #[command(after_help = READ_EXAMPLES)]
    Read(cmd::read::Args),
    /// Change memory, inside the ranges that the profile allows
    #[command(after_help = WRITE_EXAMPLES)]
    Write(cmd::write::Args),
    /// Translate a virtual address
    #[command(after_help = TRANSLATE_EXAMPLES)]
    Translate(cmd::translate::Args),
    /// Write the RAM to a file, raw or as an ELF core (vmcore)
    Dump(cmd::dump::Args),
    /// Be an adapter: answer NetTLP requests from a memory image
    #[command(after_help = EMULATE_EXAMPLES)]
    Emulate(cmd::emulate::Args),
    /// Serve a synthetic machine: nothing else is needed to try gdb on it
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(cmd::demo::Args),
    /// Measure what reading a host costs here: rates and times as ratios, over an emulated adapter
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(cmd::bench::Args),
    /// Write a target profile, check it, or print it with what it leaves to defaults
    Profile(cmd::profile::Args),
    /// Print a completion script for a shell
    Completions(cmd::completions::Args),
    /// Print the manual page
    Man,
}

/// Runs the command that the arguments name.
///
/// # Errors
/// The command's own, as one chain of sentences.
pub fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    match &cli.command {
        Command::Serve(args) => cmd::serve::run(args, cli.quiet),
        Command::Info(args) => cmd::info::run(args, cli.quiet),
        Command::Ps(args) => cmd::ps::run(args, cli.quiet),
        Command::Process(args) => cmd::process::run(args, cli.quiet),
        Command::Maps(args) => cmd::maps::run(args, cli.quiet),
        Command::Files(args) => cmd::files::run(args, cli.quiet),
        Command::Cmdline(args) => cmd::cmdline::run(args, cli.quiet),
        Command::Environ(args) => cmd::cmdline::run_environ(args, cli.quiet),
        Command::Bt(args) => cmd::bt::run(args, cli.quiet),
        Command::Dmesg(args) => cmd::dmesg::run(args, cli.quiet),
        Command::Modules(args) => cmd::modules::run(args, cli.quiet),
        Command::Symbols(args) => cmd::symbols::run(args, cli.quiet),
        Command::Kconfig(args) => cmd::kconfig::run(args, cli.quiet),
        Command::Read(args) => cmd::read::run(args, cli.quiet),
        Command::Write(args) => cmd::write::run(args, cli.quiet),
        Command::Translate(args) => cmd::translate::run(args, cli.quiet),
        Command::Dump(args) => cmd::dump::run(args, cli.quiet),
        Command::Emulate(args) => cmd::emulate::run(args),
        Command::Demo(args) => cmd::demo::run(args),
        Command::Bench(args) => cmd::bench::run(args),
        Command::Profile(args) => cmd::profile::run(args, cli.quiet),
        Command::Completions(args) => cmd::completions::run(args),
        Command::Man => cmd::man::run(),
    }
}

/// The exit code of a finished command, its error on stderr as one sentence.
#[must_use]
pub fn exit_code(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Partial) => ExitCode::from(3),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) if error.is::<BrokenPipe>() => ExitCode::SUCCESS,
        Err(error) => {
            out::complain(&error);
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}
