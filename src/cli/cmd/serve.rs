//! `serve`: the host's memory as a GDB target.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    cli::{Outcome, UsageError, out, target::Target},
    gdb::{self, Host as _, Listen, ServeError, Server, ThreadFilter, View},
    mem::cache::Validity,
    session::{
        debug_file::DEBUG_DIRECTORY,
        handout::{self, Origin, Places},
    },
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// Where to wait for gdb: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1234")]
    listen: Listen,

    /// Listen on an address that other machines reach; there is no password, so each of them reads the whole target
    #[arg(long)]
    allow_remote: bool,

    /// Let gdb write (set var, X) inside the profile's `memory.write` ranges; each write is read back
    #[arg(long)]
    allow_write: bool,

    /// Talk to gdb on stdin and stdout: (gdb) target remote | nettlp-gdb serve --stdio ...
    #[arg(long, conflicts_with = "listen")]
    stdio: bool,

    /// End when the first client detaches
    #[arg(long)]
    once: bool,

    /// Memory that was read is read again once gdb has asked for nothing during N milliseconds, or after ten times as
    /// long: one command sees one picture of the host
    #[arg(long, value_name = "N", default_value_t = 100)]
    cache_ms: u64,

    /// Which tasks gdb sees as threads besides those on CPUs: all, none (cpus), or those named as in 'ssh*'; each
    /// costs a read or two at every stop
    #[arg(long, value_name = "cpus|all|PATTERN", default_value = "all")]
    threads: ThreadFilter,

    /// Microseconds from one reading of what gdb watches to the next; changes in between are missed
    #[arg(long, value_name = "N", default_value_t = gdb::WATCH_INTERVAL.as_micros() as u64)]
    watch_interval_us: u64,

    /// Reduce what gdb reads of __per_cpu_offset[] by the KASLR slide, so that per-CPU symbols come out right
    /// (kernels before 6.15)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    percpu_rebase: PercpuRebase,

    /// Where symbols come from without --vmlinux; a gdb that has no file is handed them too
    #[arg(long, value_name = "WHENCE", default_value = "auto")]
    symbols: Symbols,

    /// Where to look for debug files by build id, as gdb's `set debug-file-directory`; repeat for several
    #[arg(long, value_name = "DIR", default_value = DEBUG_DIRECTORY)]
    debug_dir: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Symbols {
    /// The full debug file if it is found by build id, else the target's memory
    Auto,
    /// The full debug file, found by build id; gdb has to find it as well
    BuildId,
    /// The target's memory: kallsyms and BTF
    Memory,
    /// Nowhere
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PercpuRebase {
    /// Where the vmlinux links per-CPU variables at 0
    Auto,
    /// Never
    Off,
}

pub(in crate::cli) fn run(args: &Args, quiet: bool) -> anyhow::Result<Outcome> {
    let listen = if args.stdio { Listen::Stdio } else { args.listen.clone() };
    let options = gdb::Options {
        allow_remote: args.allow_remote,
        once: args.once,
        view: View {
            percpu_rebase: args.percpu_rebase == PercpuRebase::Auto,
            threads: args.threads.clone(),
            watch_interval: Duration::from_micros(args.watch_interval_us),
        },
        audit: args.target.audit()?,
        ..gdb::Options::new(listen)
    };
    let server = Server::bind(options).map_err(|error| match error {
        ServeError::Remote { .. } => UsageError(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    let validity = Validity::Pause(Duration::from_millis(args.cache_ms));
    let places = Places { debug: args.debug_dir.clone(), cache: handout::cache_directory() };
    let origin = match args.symbols {
        Symbols::Auto => Origin::Auto,
        Symbols::BuildId => Origin::BuildId,
        Symbols::Memory => Origin::Memory,
        Symbols::None => Origin::None,
    };
    let mut session = args.target.open_with_symbols(validity, origin, &places, quiet || args.stdio)?;
    let writable = args.allow_write.then(|| args.target.allow_writes(&mut session)).transpose()?;
    // GDB waits two seconds for its first answer; what takes longest is known then.
    let _ = session.threads(&ThreadFilter::Cpus);
    if let Some(address) = server.tcp_address() {
        let vmlinux = args.target.vmlinux().map_or_else(String::new, |path| format!("{} ", path.display()));
        out::notice(&format!("serving; attach with: gdb {vmlinux}-ex 'target remote {address}'"));
    }
    if let Some(ranges) = writable {
        log::warn!("gdb may write to the target, inside {ranges}");
    }
    server.run(Arc::new(session))?;
    Ok(Outcome::Done)
}
