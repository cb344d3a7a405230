//! `demo`: a synthetic machine behind an emulated adapter, served to gdb; all in this process, the datagrams
//! really on loopback.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;

use crate::{
    cli::{Outcome, file, out},
    emulator::{self, Emulator, Faults, ReadOnly},
    gdb::{self, Listen, Server},
    link,
    machine::{Description, Machine},
    session::{self, Session, Source},
};

/// The adapter's and our own address: away from 127.0.0.1 and different for each process, because the ports are
/// fixed and several demonstrations and emulators may run side by side.
fn addresses() -> [IpAddr; 2] {
    let [.., high, low] = std::process::id().to_be_bytes();
    [1, 2].map(|host| Ipv4Addr::new(127, high | 0x80, low, host).into())
}

/// What fits the machine's RAM.
const MAX_TASKS: i64 = 30_000;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Where to wait for gdb: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1234")]
    listen: Listen,

    /// Where to write the machine's vmlinux [default: a temporary directory, removed in the end]
    #[arg(long, value_name = "FILE")]
    write_vmlinux: Option<PathBuf>,

    /// Further tasks, which sleep, to see what a crowded host costs
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=MAX_TASKS))]
    tasks: u32,

    /// Time before each completion, in microseconds; hardware takes 12
    #[arg(long, value_name = "N", default_value_t = 0)]
    latency_us: u64,

    /// End when the first client detaches
    #[arg(long)]
    once: bool,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let options = gdb::Options { once: args.once, ..gdb::Options::new(args.listen.clone()) };
    let server = Server::bind(options)?;
    let machine = Machine::build(&Description::demo().crowded(args.tasks))?;
    // Its owner's alone, and gone with it.
    let private = fs::Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("nettlp-gdb-demo-").permissions(private).tempdir();
    let directory = directory.context("cannot make a temporary directory")?;
    let vmlinux = args.write_vmlinux.clone().unwrap_or_else(|| directory.path().join("vmlinux"));
    file::write(&vmlinux, &machine.vmlinux()?)?;

    let [adapter, local] = addresses();
    let requester = "1b:00.0".parse()?;
    let faults = Faults { latency: Duration::from_micros(args.latency_us), ..Faults::default() };
    let config = emulator::Config { ip: adapter, requester, faults, ..emulator::Config::default() };
    let _adapter = Emulator::start(config, Arc::new(ReadOnly(machine.memory())))?;
    let mut link = link::Config::new(adapter);
    link.local = Some(local);
    link.requester = Some(requester);
    let session = Session::open(
        session::Options { vmlinux: Some(vmlinux.clone()), ..session::Options::new(Source::Adapter(link)) },
        &|_| {},
    )?;
    if let Some(address) = server.tcp_address() {
        out::notice(&format!(
            "A synthetic Linux machine is being served. In another terminal, in the repository:\n\n  \
             gdb -q {} -ex 'target remote {address}' -ex 'source scripts/nettlp-gdb.py' -ex lx-ps\n\n\
             Then try lx-dmesg, info threads, p init_task, monitor help. Ctrl-C here ends it.",
            vmlinux.display()
        ));
    }
    server.run(Arc::new(session))?;
    Ok(Outcome::Done)
}
