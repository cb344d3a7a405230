//! The sockets: one per tag, each bound to the tag's port and connected to the same port of the adapter.
//!
//! The adapter answers every tag to its own port, whatever port the request came from, and the kernel drops
//! what comes from anybody else. The caller's thread waits in `epoll` itself: a read costs three system calls
//! (send, wait, receive) and no hop to another thread. This uses mio, the layer below tokio's sockets: tokio's
//! `block_on` panics when the caller is already inside a runtime, which a synchronous [`super::Client`] must
//! not, and it polls every tag's socket where `epoll` names the ready ones.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use mio::{Events, Interest, Poll, Token, net::UdpSocket};

use super::{
    LinkError, Read,
    engine::{Batch, Engine, LEAST_RETIREMENT, Transmit},
    inbox::Inbox,
    nettlp::PortRule,
};

/// Under a flood, look at the clock once in this many datagrams.
const CLOCK_CHECK: usize = 64;
/// Most datagrams thrown away before a tag is used again; more is a flood, not a backlog.
const DRAIN_LIMIT: usize = 4096;

/// The sockets of all tags.
#[derive(Debug)]
pub(super) struct Ports {
    poll: Poll,
    events: Events,
    sockets: Vec<UdpSocket>,
    inbox: Inbox,
}

impl Ports {
    /// Binds `local` and connects to `adapter`, one socket for each of `tags` tags.
    pub(super) fn open(local: IpAddr, adapter: IpAddr, rule: PortRule, tags: u16) -> Result<Self, LinkError> {
        let system = |error: io::Error| LinkError::System(error.kind());
        let poll = Poll::new().map_err(system)?;
        let mut sockets = Vec::with_capacity(tags.into());
        for tag in (0..=u8::MAX).take(tags.into()) {
            let port = rule.port(tag);
            let local = SocketAddr::new(local, port);
            let mut socket = UdpSocket::bind(local).map_err(|error| match error.kind() {
                // Out of descriptors or memory has nothing to do with this address.
                kind @ (io::ErrorKind::AddrInUse
                | io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::PermissionDenied) => LinkError::Bind { local, kind },
                kind => LinkError::System(kind),
            })?;
            socket
                .connect(SocketAddr::new(adapter, port))
                .map_err(|error| LinkError::NoRoute { adapter, kind: error.kind() })?;
            Inbox::join(&socket);
            poll.registry().register(&mut socket, Token(tag.into()), Interest::READABLE).map_err(system)?;
            sockets.push(socket);
        }
        Ok(Self { poll, events: Events::with_capacity(256), sockets, inbox: Inbox::new() })
    }

    /// Serves `reads` to their ends.
    pub(super) fn run(&mut self, engine: &mut Engine, reads: &mut [Read<'_>]) {
        let mut batch = engine.batch(reads);
        loop {
            // Each has a time of its own: they leave one after the other, and which is later matters.
            while let Some(request) = batch.transmit(Instant::now()) {
                self.send(&mut batch, &request);
            }
            if batch.is_done() {
                return;
            }
            let asked = Instant::now();
            let timeout = batch.deadline().map(|at| at.saturating_duration_since(asked));
            match self.poll.poll(&mut self.events, timeout) {
                Ok(()) => self.receive(&mut batch),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return batch.abort(error.kind()),
            }
            // What had come by then has been received, however long this thread was kept from running.
            batch.expire(asked);
        }
    }

    /// Waits for answers that may still come, [`LEAST_RETIREMENT`] at most: whoever has these ports next would take them
    /// for its own.
    pub(super) fn settle(&mut self, engine: &mut Engine) {
        let mut batch = engine.batch(&mut []);
        let mut now = Instant::now();
        let last = now + LEAST_RETIREMENT;
        while let Some(until) = batch.late_until(now)
            && now < last
        {
            match self.poll.poll(&mut self.events, Some(until.min(last) - now)) {
                Ok(()) => self.receive(&mut batch),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            now = Instant::now();
        }
    }

    fn send(&mut self, batch: &mut Batch<'_, '_, '_>, request: &Transmit) {
        let Some(socket) = self.sockets.get(usize::from(request.tag)) else { return };
        if request.drain {
            let now = Instant::now();
            drain(socket, &mut self.inbox, |datagram| batch.discard(request.tag, datagram, now));
        }
        if let Err(error) = send(socket, request.datagram()) {
            batch.not_sent(request.tag, error.kind());
        }
    }

    /// Reads each ready socket until its request is answered or it is empty. What then remains in it wakes
    /// nobody, and is judged before the answer to the tag's next request, which will.
    fn receive(&mut self, batch: &mut Batch<'_, '_, '_>) {
        let now = Instant::now();
        for event in &self.events {
            let Token(index) = event.token();
            let Some(socket) = self.sockets.get(index) else { continue };
            let tag = index as u8;
            for count in 1_usize.. {
                match self.inbox.receive(socket, |datagram| batch.receive(tag, datagram, now)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => batch.socket_failed(tag, error.kind(), now),
                }
                let many = count.is_multiple_of(CLOCK_CHECK);
                if many {
                    batch.expire(Instant::now());
                }
                // The rest of a late answer frees its tag.
                if !batch.awaits(tag) && (many || !batch.awaits_late(tag)) {
                    break;
                }
            }
        }
    }

    /// Sends a datagram that nothing answers.
    pub(super) fn post(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.sockets.first().map_or(Ok(()), |socket| send(socket, datagram))
    }
}

/// An error may be about an earlier datagram, and then this one was not sent: one more try tells. A full send
/// buffer is a loss like any other, and is left to the timeout.
fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    match socket.send(datagram).or_else(|_| socket.send(datagram)) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

fn drain(socket: &UdpSocket, inbox: &mut Inbox, mut discard: impl FnMut(&[u8])) {
    for _ in 0..DRAIN_LIMIT {
        match inbox.receive(socket, &mut discard) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // It is about an earlier request, and consumed now.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, UdpSocket},
        time::Duration,
    };

    use super::*;
    use crate::{
        addr::PhysAddr,
        link::{
            Requester,
            engine::Settings,
            nettlp::{HEADER_LEN, Stamp},
            tlp::{Completion, Tlp},
        },
    };

    /// The second completion of a late answer came with the first, and nothing would have told of it.
    #[test]
    fn a_late_answer_is_read_to_its_end() {
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let [local, adapter] =
            [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(127, 32 | high & 0x1f, low, last)));
        let rule = PortRule::default();
        let wire = UdpSocket::bind((adapter, rule.port(0))).unwrap();
        let mut ports = Ports::open(local, adapter, rule, 1).unwrap();
        let timeout = Duration::from_secs(1);
        let requester = Requester::from_raw(0x1b00);
        let mut engine = Engine::new(Settings { requester, tags: 1, mrrs: 512, timeout, retries: 1 });
        let mut buf = [0; 8];
        let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
        let mut batch = engine.batch(&mut reads);
        let now = Instant::now();
        let sent = batch.transmit(now).unwrap();
        ports.send(&mut batch, &sent);
        batch.expire(now + timeout);
        assert!(batch.transmit(now + timeout).is_none(), "its tag rests");

        let mut request = [0; 64];
        let (len, client) = wire.recv_from(&mut request).unwrap();
        let Ok(Tlp::Read(request)) = Tlp::decode(&request[HEADER_LEN..len]) else { panic!("{request:x?}") };
        for at in [0, 4] {
            let completion = Completion::with_data(&request, 8 - at, at as u8, &[0x5a; 4]);
            let stamp = Stamp { sequence: at, timestamp: 100 + u32::from(at) }.to_bytes();
            wire.send_to(&[&stamp[..], completion.encode().as_ref(), &[0x5a; 4]].concat(), client).unwrap();
        }
        ports.poll.poll(&mut ports.events, None).unwrap();
        ports.receive(&mut batch);
        assert!(batch.transmit(now + timeout).is_some(), "the answer is complete: nothing can follow it");
    }
}
