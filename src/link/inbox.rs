//! Takes datagrams out of a socket, several with one system call where the kernel has joined them.
//!
//! The completions of one request come to one port, in one burst and, but for the last, of one size. That is what
//! generic receive offload joins (`UDP_GRO`, udp(7)): a read of 512 bytes is two datagrams and one call. The
//! datagrams are the same; where the kernel or the network card does not join them, each takes a call.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
};

use mio::net::UdpSocket;
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};

/// The most that is joined: what the length in an IP header can say.
const ROOM: usize = 1 << 16;

/// A buffer for what is received, used again and again.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    control: Vec<u8>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; ROOM].into_boxed_slice(), control: cmsg_space!(i32) }
    }

    /// Asks the kernel to join what comes to `socket`. Kernels before 5.0 do not know how.
    pub(super) fn join(socket: &UdpSocket) {
        if let Err(error) = setsockopt(socket, sockopt::UdpGroSegment, &true) {
            log::debug!("each datagram will take a system call: {error}");
        }
    }

    /// Takes one datagram, or several that were joined, and hands each to `take`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing waits; else what the system reports about the socket.
    pub(super) fn receive(&mut self, socket: &UdpSocket, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut place = [IoSliceMut::new(&mut self.bytes)];
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut place, Some(&mut self.control), MsgFlags::empty())?;
        let len = received.bytes;
        let joined = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        });
        let bytes = self.bytes.get(..len).unwrap_or_default();
        match joined.filter(|size| (1..len).contains(size)) {
            Some(size) => bytes.chunks(size).for_each(take),
            None => take(bytes),
        }
        Ok(())
    }
}
