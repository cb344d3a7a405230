//! The adapter's sockets and its sense of time.
//!
//! One thread waits in `epoll` for requests and for what is due. It is a thread over mio and not a tokio
//! runtime because tokio's timers have a resolution of 1 ms, while latencies of tens of microseconds are to be
//! emulated: what is due within the next [`SPIN`] is waited for by polling without sleeping.

use std::{
    cmp::{Ordering as Compare, Reverse},
    collections::BinaryHeap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::UdpSocket};

use super::{
    Backing, Config, Counters, EmulatorError, Holes, bump,
    faults::{FrameFate, RequestFate, damage},
    intake::Intake,
    outlet::Outlet,
    root_complex::RootComplex,
};
use crate::link::{
    message::{MSIX_ENTRIES, Question},
    nettlp::{MAX_DATAGRAM, PortRule, Stamp},
    tlp::{Completion, MemRequest, Tlp},
};

/// `epoll` sleeps whole milliseconds; the last one is spent polling.
const SPIN: Duration = Duration::from_millis(1);
/// How late a late answer is if nothing is said.
const LATE_BY: Duration = Duration::from_millis(150);
/// Room for bursts of posted writes, which nothing paces.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Frames waiting to be sent; past this the adapter drops requests, as its FIFOs would.
const QUEUE_LIMIT: usize = 1 << 16;

const MESSAGES: Token = Token(256);
const WAKE: Token = Token(257);

/// A completion between root complex and client.
struct Frame {
    due: Instant,
    /// Among frames due together, the order they were made in.
    order: u64,
    to: IpAddr,
    tag: u8,
    bytes: Vec<u8>,
    /// What the network will do to it; `None` once it has.
    fate: Option<FrameFate>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Compare::Equal
    }
}

impl Eq for Frame {}

impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Self) -> Option<Compare> {
        Some(self.cmp(other))
    }
}

impl Ord for Frame {
    fn cmp(&self, other: &Self) -> Compare {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// Everything the emulator's thread owns.
pub(super) struct Server {
    config: Config,
    rule: PortRule,
    complex: RootComplex,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    poll: Poll,
    sockets: Vec<UdpSocket>,
    outlet: Outlet,
    messages: Option<UdpSocket>,
    queue: BinaryHeap<Reverse<Frame>>,
    spare: Vec<Vec<u8>>,
    data: Vec<u8>,
    order: u64,
    epoch: Instant,
    sequence: u16,
    timestamp: u32,
    requests: [u64; 256],
    warned: bool,
}

impl Server {
    /// Checks `config` and binds everything. The waker makes [`Server::run`] look at `stop`.
    pub(super) fn open(
        config: Config,
        memory: Arc<dyn Backing>,
        counters: Arc<Counters>,
        stop: Arc<AtomicBool>,
    ) -> Result<(Self, Waker), EmulatorError> {
        let rule = check(&config)?;
        let poll = Poll::new().map_err(EmulatorError::System)?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(EmulatorError::System)?;
        let slots = (0..=u8::MAX).map(|tag| rule.slot(tag)).max().unwrap_or(0);
        let mut sockets = Vec::with_capacity(256);
        for slot in 0..=slots {
            sockets.push(bind(&poll, config.ip, rule.port(slot), Token(slot.into()))?);
        }
        let messages = config.message_port.map(|port| bind(&poll, config.ip, port, MESSAGES)).transpose()?;
        let outlet = Outlet::new(config.max_payload, &sockets);
        let complex = RootComplex { memory, rcb: config.rcb, max_payload: config.max_payload };
        let server = Self {
            config,
            rule,
            complex,
            counters,
            stop,
            poll,
            sockets,
            outlet,
            messages,
            queue: BinaryHeap::new(),
            spare: Vec::new(),
            data: Vec::new(),
            order: 0,
            epoch: Instant::now(),
            sequence: 0,
            timestamp: 0,
            requests: [0; 256],
            warned: false,
        };
        Ok((server, waker))
    }

    /// Answers until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(320);
        let mut intake = Intake::new();
        while !self.stop.load(Ordering::Acquire) {
            let wait = self.queue.peek().map(|Reverse(frame)| {
                let left = frame.due.saturating_duration_since(Instant::now()).saturating_sub(SPIN);
                Duration::from_millis(left.as_millis() as u64)
            });
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return log::error!("the emulated adapter cannot wait for requests: {error}"),
            }
            for event in &events {
                match event.token() {
                    MESSAGES => self.answer_messages(),
                    WAKE => {}
                    Token(slot) => self.receive(slot, &mut intake),
                }
            }
            self.send_due();
        }
    }

    fn receive(&mut self, slot: usize, intake: &mut Intake) {
        while let (Some(socket), false) = (self.sockets.get(slot), self.stop.load(Ordering::Acquire)) {
            let socket = socket.as_raw_fd();
            let received = intake.receive(socket, |datagram, from| {
                self.request(datagram, from);
                self.send_due();
            });
            // An error says that an earlier answer found nobody: the client has gone, and hears nothing on hardware
            // either.
            if !received.unwrap_or(true) {
                return;
            }
        }
    }

    fn request(&mut self, datagram: &[u8], from: IpAddr) {
        let tlp = Stamp::split(datagram).and_then(|(_, tlp)| Tlp::decode(tlp).ok());
        let request = match tlp {
            Some(Tlp::Read(request) | Tlp::Write(request, _)) => request,
            _ => return bump(&self.counters.malformed),
        };
        let nth = self.requests.get_mut(usize::from(request.tag)).map_or(0, |count| {
            *count += 1;
            *count
        });
        let fate = RequestFate::draw(&self.config.faults, request.tag, nth);
        if fate.lost || self.queue.len() > QUEUE_LIMIT {
            return bump(&self.counters.lost);
        }
        match tlp {
            Some(Tlp::Write(_, data)) => {
                bump(&self.counters.writes);
                if self.complex.write(&request, data).is_err() {
                    bump(&self.counters.holes);
                }
            }
            _ => {
                bump(&self.counters.reads);
                self.read(request, from, fate);
            }
        }
    }

    fn read(&mut self, request: MemRequest, from: IpAddr, mut fate: RequestFate) {
        if request.requester != self.config.requester {
            bump(&self.counters.misrouted);
            if !std::mem::replace(&mut self.warned, true) {
                let (asked, ours) = (request.requester, self.config.requester);
                log::warn!("requests from {asked} get no answer: this adapter is {ours}");
            }
            return;
        }
        let faults = self.config.faults;
        let mut due = Instant::now() + faults.latency;
        if fate.late {
            bump(&self.counters.late);
            due += if faults.late_by.is_zero() { LATE_BY } else { faults.late_by };
        }
        let mut data = std::mem::take(&mut self.data);
        match self.complex.read(&request, &mut data) {
            Ok(()) => {
                for completion in self.complex.completions(request, &data) {
                    self.enqueue(&completion, from, due, fate.next_frame(&faults));
                }
            }
            Err(status) => {
                bump(&self.counters.holes);
                if faults.holes == Holes::UnsupportedRequest {
                    let lower = (request.first_byte() & 0x7f) as u8;
                    let refusal = Completion::without_data(&request, status, request.byte_count(), lower);
                    self.enqueue(&refusal, from, due, fate.next_frame(&faults));
                }
            }
        }
        self.data = data;
    }

    fn enqueue(&mut self, completion: &Completion<'_>, to: IpAddr, due: Instant, fate: FrameFate) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend(Stamp::default().to_bytes());
        bytes.extend(completion.encode().as_ref());
        bytes.extend(completion.data);
        self.schedule(Frame { due, order: 0, to, tag: completion.tag, bytes, fate: Some(fate) });
    }

    fn schedule(&mut self, frame: Frame) {
        self.order += 1;
        self.queue.push(Reverse(Frame { order: self.order, ..frame }));
    }

    fn send_due(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse(frame)| frame.due <= now) {
            let Some(Reverse(mut frame)) = self.queue.pop() else { break };
            match frame.fate.take() {
                Some(fate) => self.emit(frame, fate, now),
                None => self.deliver(frame),
            }
        }
        self.outlet.flush(&self.sockets);
    }

    /// The adapter stamps the frame and hands it to the network.
    fn emit(&mut self, mut frame: Frame, fate: FrameFate, now: Instant) {
        bump(&self.counters.completions);
        let stamp = self.stamp(now);
        if let Some(header) = frame.bytes.first_chunk_mut() {
            *header = stamp.to_bytes();
        }
        if fate.lost {
            return bump(&self.counters.lost);
        }
        if let Some(choice) = fate.damage {
            bump(&self.counters.corrupted);
            damage(&mut frame.bytes, choice);
        }
        if let Some(after) = fate.duplicate {
            bump(&self.counters.duplicated);
            self.schedule(Frame { bytes: frame.bytes.clone(), due: frame.due + after, ..frame });
        }
        match fate.hold {
            Some(hold) => {
                bump(&self.counters.reordered);
                let due = frame.due + hold;
                self.schedule(Frame { due, ..frame });
            }
            None => self.deliver(frame),
        }
    }

    fn deliver(&mut self, frame: Frame) {
        let to = SocketAddr::new(frame.to, self.rule.port(frame.tag));
        self.outlet.send(&self.sockets, self.rule.slot(frame.tag).into(), to, &frame.bytes);
        self.spare.push(frame.bytes);
    }

    /// The adapter's sequence number and its 156.25 MHz clock; never twice the same tick.
    fn stamp(&mut self, now: Instant) -> Stamp {
        let ticks = (now.duration_since(self.epoch).as_nanos() * 5 / 32) as u32;
        let ahead = ticks.wrapping_sub(self.timestamp);
        self.timestamp = if ahead == 0 || ahead > 1 << 31 { self.timestamp.wrapping_add(1) } else { ticks };
        self.timestamp = self.timestamp.max(1);
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        Stamp { sequence, timestamp: self.timestamp }
    }

    fn answer_messages(&self) {
        let mut buffer = [0; MAX_DATAGRAM];
        let Some(socket) = &self.messages else { return };
        loop {
            let (len, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let Some(question) = buffer.get(..len).and_then(Question::from_bytes) else { continue };
            let answer = match question {
                Question::Bar4 => self.config.bar4.to_le_bytes().to_vec(),
                Question::Requester => self.config.requester.raw().to_le_bytes().to_vec(),
                Question::Msix => msix_table(),
            };
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The first vector as Linux would set it up; the rest are masked.
fn msix_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(MSIX_ENTRIES * 12);
    table.extend(0xfee0_0000_u64.to_le_bytes());
    table.extend(0x4020_u32.to_le_bytes());
    table.resize(MSIX_ENTRIES * 12, 0);
    table
}

fn check(config: &Config) -> Result<PortRule, EmulatorError> {
    let faults = &config.faults;
    let chances = [faults.loss, faults.reorder, faults.dup, faults.corrupt, faults.late];
    if !chances.iter().all(|chance| (0.0..=1.0).contains(chance)) {
        return Err(EmulatorError::Config("probabilities must be 0 to 1"));
    }
    if !(config.rcb.is_power_of_two() && config.max_payload.is_power_of_two())
        || config.rcb < 4
        || !(config.rcb..=4096).contains(&config.max_payload)
    {
        return Err(EmulatorError::Config(
            "the payload size and the completion boundary must be powers of two, the latter not above the former",
        ));
    }
    PortRule::new(config.port_base, config.port_mask)
        .ok_or(EmulatorError::Config("the port base leaves no room for all ports below 65536"))
}

fn bind(poll: &Poll, ip: IpAddr, port: u16, token: Token) -> Result<UdpSocket, EmulatorError> {
    let addr = SocketAddr::new(ip, port);
    let mut socket = UdpSocket::bind(addr).map_err(|source| EmulatorError::Bind { addr, source })?;
    // The system's limit may be lower; then bursts are shorter.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    poll.registry().register(&mut socket, token, Interest::READABLE).map_err(EmulatorError::System)?;
    Ok(socket)
}
