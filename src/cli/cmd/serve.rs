//! `serve`: the host's memory as a GDB target.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    cli::{Outcome, UsageError, out, target::Target},
    gdb::{self, Host, Hosts, Listen, ServeError, Server, ThreadFilter, View},
    mem::cache::Validity,
    session::{
        Session,
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

    /// Reduce what gdb reads of __per_cpu_offset[] by the KASLR slide, so that per-CPU symbols come out right, and
    /// per-CPU pointers in memory need $lx_per_cpu_ptr() (kernels before 6.15)
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
    let target = args.target.clone();
    let (allow_write, quiet) = (args.allow_write, quiet || args.stdio);
    let open = move || {
        let mut session = target.open_with_symbols(validity, origin, &places, quiet)?;
        let writable = allow_write.then(|| target.allow_writes(&mut session)).transpose()?;
        session.mark_boot();
        // GDB waits two seconds for its first answer; what takes longest is known then.
        let _ = session.threads(&ThreadFilter::Cpus);
        Ok((session, writable))
    };
    let (session, writable) = open()?;
    if let Some(remote) = server.remote() {
        let vmlinux = args.target.vmlinux().map_or_else(String::new, |path| format!("{} ", path.display()));
        out::notice(&format!("serving; attach with: gdb {vmlinux}-ex 'target remote {remote}'"));
    }
    if let Some(ranges) = writable {
        log::warn!("gdb may write to the target, inside {ranges}");
    }
    let open = Box::new(move || open().map(|(session, _)| session));
    server.run_any(Arc::new(Boots { session: Mutex::new(Some(Arc::new(session))), open }))?;
    Ok(Outcome::Done)
}

/// The host, opened again for the first client after it was booted anew.
struct Boots {
    /// `None` while the link is free for the next: two readers cannot have the same ports.
    session: Mutex<Option<Arc<Session>>>,
    open: Box<dyn Fn() -> anyhow::Result<Session> + Send + Sync>,
}

impl Boots {
    fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosts for Boots {
    fn found(&self) -> Option<Arc<dyn Host>> {
        let mut session = self.session();
        *session = session.take().filter(|session| !session.booted_anew());
        session.clone().map(|session| session as _)
    }

    fn find(&self) -> Result<Arc<dyn Host>, String> {
        let mut session = self.session();
        *session = None;
        let found = (self.open)().map_err(|error| {
            format!("the host was booted anew, and its kernel is not found (attach again later): {error:#}")
        })?;
        Ok(Arc::clone(session.insert(Arc::new(found))) as _)
    }
}
