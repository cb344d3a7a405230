//! The ceiling: two processes that do nothing but exchange datagrams as a read of 512 bytes does.
//!
//! One datagram of a request's size goes out, two of a completion's size come back, as many at once as the link has
//! tags; one socket on each side, a system call for each datagram.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::child::Other;
use crate::cli::out;

/// A request and a completion of 256 bytes, with the NetTLP header.
const REQUEST: [u8; 22] = [0; 22];
const COMPLETION: [u8; 274] = [0; 274];
const COMPLETIONS: usize = 2;
const PORT: u16 = 0x3000;
const RECEIVE_BUFFER: usize = 1 << 20;

/// Answers until ended by a signal.
pub(super) fn answer(ip: IpAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((ip, PORT)).with_context(|| format!("cannot bind {ip}:{PORT}"))?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    out::notice(&format!("{ip} answers"));
    let mut request = REQUEST;
    loop {
        let (_, from) = socket.recv_from(&mut request)?;
        for _ in 0..COMPLETIONS {
            socket.send_to(&COMPLETION, from)?;
        }
    }
}

/// The process that answers, and the way to it.
pub(super) struct Echo {
    _other: Other,
    socket: UdpSocket,
}

impl Echo {
    pub(super) fn start() -> anyhow::Result<Self> {
        let other = Other::start(|ip| vec!["bench".to_owned(), "--echo".to_owned(), ip.to_string()])?;
        let socket = UdpSocket::bind((other.local, PORT)).context("cannot bind the other end of the echo")?;
        // Nothing is sent again here: what waits must find room.
        socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.connect(SocketAddr::new(other.ip, PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self { _other: other, socket })
    }

    /// How long `requests` take, `window` of them at once.
    pub(super) fn exchange(&self, requests: usize, window: usize) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut completion = COMPLETION;
        let (mut sent, mut received) = (0, 0);
        while received < requests * COMPLETIONS {
            while sent < requests && sent - received / COMPLETIONS < window {
                self.socket.send(&REQUEST)?;
                sent += 1;
            }
            match self.socket.recv(&mut completion) {
                Ok(_) => received += 1,
                Err(error) => bail!("the echo stopped after {received} datagrams: {error}"),
            }
        }
        Ok(start.elapsed())
    }
}
