//! The adapter and root complex, emulated over any physical memory.
//!
//! It answers NetTLP datagrams as an adapter in a real machine does: completions cut at the Read Completion
//! Boundary and the maximum payload size, Unsupported Request for holes, silence for a foreign requester ID,
//! posted writes with byte enables, the driver's messages. On demand, and repeatably, it misbehaves as a
//! network or a machine can ([`Faults`]). [`root_complex`] knows PCI Express, [`faults`] what goes wrong,
//! [`server`] sockets and time. Nothing here knows what the memory contains.

mod faults;
mod intake;
mod outlet;
mod ram;
mod root_complex;
mod server;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::{faults::SplitMix64, ram::Ram};
use crate::{
    link::{Requester, message, nettlp},
    mem::{PhysMem, PhysWrite, ReadOp},
};

/// Memory an emulated machine has.
pub trait Backing: PhysMem {
    /// Where writes go; `None` drops them.
    fn writer(&self) -> Option<&dyn PhysWrite> {
        None
    }
}

/// Memory that ignores writes.
#[derive(Debug)]
pub struct ReadOnly<M>(pub M);

/// Memory that takes writes.
#[derive(Debug)]
pub struct Writable<M>(pub M);

impl<M: PhysMem> PhysMem for ReadOnly<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.0.read_batch(ops);
    }
}

impl<M: PhysMem> PhysMem for Writable<M> {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        self.0.read_batch(ops);
    }
}

impl<M: PhysMem> Backing for ReadOnly<M> {}

impl<M: PhysMem + PhysWrite> Backing for Writable<M> {
    fn writer(&self) -> Option<&dyn PhysWrite> {
        Some(&self.0)
    }
}

/// What the root complex does with a read of an address where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Holes {
    /// It completes with Unsupported Request.
    #[default]
    UnsupportedRequest,
    /// It never answers.
    Silent,
}

/// What goes wrong, and how often. Probabilities are 0 to 1; all is decided by `seed` and by the order of
/// the requests of each tag, so that the same requests meet the same faults.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// Time from request to answer, met to a few microseconds.
    pub latency: Duration,
    /// Chance that the network loses a datagram: a request, or one completion of an answer.
    pub loss: f64,
    /// Chance that the network delays a completion past later ones, by up to half a millisecond.
    pub reorder: f64,
    /// Chance that the network delivers a completion twice.
    pub dup: f64,
    /// Chance that a completion arrives damaged in a way a client can detect: tag, requester, type, status,
    /// poison, digest, Length, byte count or lower address changed, or its end missing. Never the data alone:
    /// nothing in a datagram would show that.
    pub corrupt: f64,
    /// Chance that the root complex answers only after [`Faults::late_by`].
    pub late: f64,
    /// How late a late answer is; 0 stands for 150 ms, longer than a client waits by default.
    pub late_by: Duration,
    /// What reads of holes get.
    pub holes: Holes,
    /// Decides which datagrams suffer.
    pub seed: u64,
}

/// What is emulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The adapter's address. Client and adapter use the same ports, so the client needs another one.
    pub ip: IpAddr,
    /// UDP port of tag 0.
    pub port_base: u16,
    /// Bits of the tag that are added to `port_base`.
    pub port_mask: u16,
    /// Where driver messages are answered; `None` if nowhere.
    pub message_port: Option<u16>,
    /// The adapter's requester ID. Requests with another one get no answer, as on a real bus.
    pub requester: Requester,
    /// Physical address of the adapter's BAR4, for the driver message.
    pub bar4: u64,
    /// Read Completion Boundary in bytes: 64 or 128.
    pub rcb: u16,
    /// Maximum payload of a completion in bytes, a power of two.
    pub max_payload: u16,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for Config {
    /// An adapter at 127.0.0.1 with current ports, requester 1b:00.0, RCB 64, payload 256, and no faults.
    fn default() -> Self {
        Self {
            ip: Ipv4Addr::LOCALHOST.into(),
            port_base: nettlp::PORT_BASE,
            port_mask: nettlp::PORT_MASK,
            message_port: Some(message::DRIVER_PORT),
            requester: Requester::from_raw(0x1b00),
            bar4: 0xb000_0000,
            rcb: 64,
            max_payload: 256,
            faults: Faults::default(),
        }
    }
}

/// Why the emulator could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// An option that makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// A port is not to be had.
    #[error("cannot bind {addr}")]
    Bind {
        /// The address and port.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operating system has no descriptors, memory or threads left.
    #[error("cannot start the emulator")]
    System(#[source] io::Error),
}

/// What the emulator did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EmulatorStats {
    /// Read requests received.
    pub reads: u64,
    /// Write requests received.
    pub writes: u64,
    /// Completions sent, before the network's faults.
    pub completions: u64,
    /// Reads and writes of addresses where nothing is.
    pub holes: u64,
    /// Datagrams that were no memory request.
    pub malformed: u64,
    /// Requests with a foreign requester ID.
    pub misrouted: u64,
    /// Datagrams lost on purpose.
    pub lost: u64,
    /// Completions sent twice on purpose.
    pub duplicated: u64,
    /// Completions delayed past others on purpose.
    pub reordered: u64,
    /// Completions damaged on purpose.
    pub corrupted: u64,
    /// Answers sent late on purpose.
    pub late: u64,
}

impl fmt::Display for EmulatorStats {
    /// What was asked and answered; what was amiss only if something was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reads, writes, completions, .. } = self;
        write!(f, "{reads} reads and {writes} writes, {completions} completions")?;
        let amiss = [
            (self.holes, "of addresses where nothing is"),
            (self.malformed, "that were no request"),
            (self.misrouted, "of another requester"),
            (self.lost, "lost"),
            (self.duplicated, "sent twice"),
            (self.reordered, "held back"),
            (self.corrupted, "damaged"),
            (self.late, "late"),
        ];
        amiss
            .iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}

macro_rules! counters {
    ($($name:ident),*) => {
        #[derive(Debug, Default)]
        struct Counters { $($name: AtomicU64),* }

        impl Counters {
            fn snapshot(&self) -> EmulatorStats {
                EmulatorStats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters!(
    reads,
    writes,
    completions,
    holes,
    malformed,
    misrouted,
    lost,
    duplicated,
    reordered,
    corrupted,
    late
);

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A running adapter; dropping it stops its thread and closes its sockets.
#[derive(Debug)]
pub struct Emulator {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    waker: mio::Waker,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Binds all ports and starts answering from a thread of its own.
    ///
    /// # Errors
    /// [`EmulatorError`]; nothing is left running then.
    pub fn start(config: Config, memory: Arc<dyn Backing>) -> Result<Self, EmulatorError> {
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (server, waker) = server::Server::open(config, memory, Arc::clone(&counters), Arc::clone(&stop))?;
        let thread = thread::Builder::new()
            .name("emulator".to_owned())
            .spawn(move || server.run())
            .map_err(EmulatorError::System)?;
        Ok(Self { counters, stop, waker, thread: Some(thread) })
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> EmulatorStats {
        self.counters.snapshot()
    }

    /// Stops it and waits until its sockets are closed.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            log::warn!("cannot stop the emulated adapter: {error}");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::warn!("the emulated adapter had died");
        }
    }
}
