//! The client of an adapter: set-up, batched reads, posted writes.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Latencies, LinkError, LinkStats, Read, Requester,
    engine::{Engine, Settings},
    message,
    nettlp::{PORT_BASE, PORT_MASK, PortRule, Stamp},
    split::Split,
    tlp::MemRequest,
    udp::Ports,
};
use crate::addr::PhysAddr;

/// Most bytes one write request carries: the maximum payload size adapters are set to.
pub const MAX_PAYLOAD: u32 = 256;

/// How to reach an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The adapter's address.
    pub adapter: IpAddr,
    /// Our own; by default the one the route to the adapter has, or 127.0.0.2 for an adapter on loopback.
    pub local: Option<IpAddr>,
    /// The adapter's requester ID on the target; asked from the driver if not given.
    pub requester: Option<Requester>,
    /// The target's own network address, where the driver is asked; by default the adapter's if that is on
    /// loopback, where both are emulated.
    pub driver_host: Option<IpAddr>,
    /// Requests in flight: tags 0 to `tags` - 1. More than 32 need Extended Tags enabled on the target.
    pub tags: u16,
    /// Longest read request in bytes, a power of two: the Maximum Read Request Size set on the adapter.
    pub mrrs: u32,
    /// UDP port of tag 0.
    pub port_base: u16,
    /// Bits of the tag that are added to `port_base`.
    pub port_mask: u16,
    /// How long to wait for the answer to a request.
    pub timeout: Duration,
    /// How often a request without an answer is sent again.
    pub retries: u32,
}

impl Config {
    /// The defaults for an adapter at this address: 16 tags, requests of 512 bytes (what Linux sets), ports
    /// 0x3000 to 0x30ff, 3 retries after 100 ms each. Answers take 12 to 50 microseconds and a completer has
    /// 50 ms by PCI Express's default, so that after 100 ms an answer is lost; asking again is harmless.
    #[must_use]
    pub const fn new(adapter: IpAddr) -> Self {
        Self {
            adapter,
            local: None,
            requester: None,
            driver_host: None,
            tags: 16,
            mrrs: 512,
            port_base: PORT_BASE,
            port_mask: PORT_MASK,
            timeout: Duration::from_millis(100),
            retries: 3,
        }
    }

    /// Whether the options make sense together.
    ///
    /// # Errors
    /// [`LinkError::Config`] with what does not.
    pub fn check(&self) -> Result<(), LinkError> {
        self.rule().map(drop)
    }

    fn rule(&self) -> Result<PortRule, LinkError> {
        let check = |holds: bool, complaint| if holds { Ok(()) } else { Err(LinkError::Config(complaint)) };
        check((1..=256).contains(&self.tags), "tags must be 1 to 256")?;
        let distinct = (self.port_mask & 0xff).trailing_ones();
        check(
            u32::from(self.tags) <= 1 << distinct,
            "the port mask gives several tags the same port: use fewer tags",
        )?;
        check(
            self.mrrs.is_power_of_two() && self.mrrs >= 4,
            "the maximum read request size must be a power of two (128 to 4096)",
        )?;
        check(!self.timeout.is_zero(), "the timeout must not be 0")?;
        check(self.timeout <= Duration::from_secs(60), "the timeout must be at most one minute")?;
        PortRule::new(self.port_base, self.port_mask)
            .ok_or(LinkError::Config("the port base leaves no room for all ports below 65536"))
    }

    fn local(&self) -> Result<IpAddr, LinkError> {
        match (self.local, self.adapter) {
            (Some(local), _) => Ok(local),
            // Both ends use the same port numbers, so they need different addresses.
            (None, IpAddr::V4(adapter)) if adapter.is_loopback() => {
                let [a, b, c, d] = adapter.octets();
                Ok(Ipv4Addr::new(a, b, c, if d == 2 { 1 } else { 2 }).into())
            }
            (None, adapter) => route_to(adapter),
        }
    }

    fn requester(&self) -> Result<Requester, LinkError> {
        let emulated = Some(self.adapter).filter(IpAddr::is_loopback);
        match (self.requester, self.driver_host.or(emulated)) {
            (Some(requester), _) => Ok(requester),
            (None, Some(host)) => message::ask_requester(host),
            (None, None) => Err(LinkError::RequesterUnknown),
        }
    }
}

/// The local address the system would use to reach `adapter`.
fn route_to(adapter: IpAddr) -> Result<IpAddr, LinkError> {
    let any: IpAddr = if adapter.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect((adapter, PORT_BASE)).map(|()| socket))
        .and_then(|socket| socket.local_addr())
        .map(|local| local.ip())
        .map_err(|error| LinkError::NoRoute { adapter, kind: error.kind() })
}

/// An adapter, ready for reads and writes.
///
/// One batch is served at a time; callers on other threads wait for it. Dropping it takes up to a second if requests were
/// given up shortly before: their answers may still come, to whoever has the ports then.
#[derive(Debug)]
pub struct Client {
    link: Mutex<Link>,
    requester: Requester,
}

#[derive(Debug)]
struct Link {
    engine: Engine,
    ports: Ports,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ports.settle(&mut self.engine);
    }
}

impl Client {
    /// Opens the sockets, and asks for the requester ID if it is not given. Sends nothing to the adapter.
    ///
    /// # Errors
    /// [`LinkError::Config`], [`LinkError::Bind`], [`LinkError::NoRoute`], [`LinkError::RequesterUnknown`],
    /// [`LinkError::NoDriver`] or [`LinkError::System`].
    pub fn connect(config: &Config) -> Result<Self, LinkError> {
        let rule = config.rule()?;
        let ports = Ports::open(config.local()?, config.adapter, rule, config.tags)?;
        let requester = config.requester()?;
        let engine = Engine::new(Settings {
            requester,
            tags: config.tags,
            mrrs: config.mrrs,
            timeout: config.timeout,
            retries: config.retries,
        });
        Ok(Self { link: Mutex::new(Link { engine, ports }), requester })
    }

    /// The requester ID in use.
    #[must_use]
    pub fn requester(&self) -> Requester {
        self.requester
    }

    /// Attempts every read, as many requests at once as there are tags, and sets each `result`.
    pub fn read_batch(&self, reads: &mut [Read<'_>]) {
        let Link { engine, ports } = &mut *self.lock();
        ports.run(engine, reads);
    }

    /// Sends `data` to `addr`. Writes are posted: success says that the requests were sent.
    ///
    /// # Errors
    /// [`LinkError::PastEnd`], [`LinkError::NoAdapter`] (possibly about an earlier request) or
    /// [`LinkError::Socket`]; some of `data` may have been written then.
    pub fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), LinkError> {
        let len = data.len();
        let Some(last) = (len as u64).checked_sub(1) else { return Ok(()) };
        addr.checked_add(last).ok_or(LinkError::PastEnd { addr, len })?;
        let Link { engine, ports } = &mut *self.lock();
        let mut datagram = Vec::with_capacity(Stamp::default().to_bytes().len() + 16 + MAX_PAYLOAD as usize);
        for piece in Split::new(addr.raw(), len, MAX_PAYLOAD) {
            let request = MemRequest::for_bytes(piece.addr, piece.len, self.requester, 0);
            let wanted = data.get(piece.offset..piece.offset + piece.len).unwrap_or_default();
            datagram.clear();
            datagram.extend(Stamp::default().to_bytes());
            datagram.extend(request.encode_write().as_ref());
            datagram.extend(std::iter::repeat_n(0, piece.skip()));
            datagram.extend(wanted);
            let end = piece.skip() + piece.len;
            datagram.extend(std::iter::repeat_n(0, end.next_multiple_of(4) - end));
            ports.post(&datagram).map_err(|error| {
                let (addr, len) = (PhysAddr::new(piece.addr), piece.len);
                match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => LinkError::NoAdapter { addr, len },
                    kind => LinkError::Socket { addr, len, kind },
                }
            })?;
            engine.count_writes(1);
        }
        Ok(())
    }

    /// What the link did so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.lock().engine.stats()
    }

    /// How long its answers took so far.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.lock().engine.latencies().clone()
    }

    /// A thread that panicked in a batch has given its requests up; the link is as good as before.
    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
