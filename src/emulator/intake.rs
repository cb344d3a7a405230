//! Takes requests out of a socket: all that wait with one system call, and no second one to learn that it is empty.

use std::{
    io::{self, IoSliceMut},
    net::IpAddr,
    os::fd::RawFd,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg},
};

use crate::link::nettlp::MAX_DATAGRAM;

/// Datagrams taken at once. A client has one read under way for each tag, and bursts of writes.
const AT_ONCE: usize = 4;

/// Buffers for what is received, used again and again.
pub(super) struct Intake {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; MAX_DATAGRAM]; AT_ONCE]>,
}

impl Intake {
    pub(super) fn new() -> Self {
        let headers = MultiHeaders::preallocate(AT_ONCE, None);
        Self { headers, buffers: Box::new([[0; MAX_DATAGRAM]; AT_ONCE]) }
    }

    /// Hands what waits in `socket` to `take`, with the address it is from. Returns whether more may wait.
    ///
    /// # Errors
    /// What the system reports about the socket.
    pub(super) fn receive(&mut self, socket: RawFd, mut take: impl FnMut(&[u8], IpAddr)) -> io::Result<bool> {
        let mut places = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let received =
            match recvmmsg(socket, &mut self.headers, places.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
        let mut count = 0;
        for message in received {
            count += 1;
            let from = message.address.as_ref().and_then(address);
            let bytes = message.iovs().next().unwrap_or_default();
            if let Some(from) = from {
                take(bytes, from);
            }
        }
        Ok(count == AT_ONCE)
    }
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|from| from.ip().into());
    v4.or_else(|| from.as_sockaddr_in6().map(|from| from.ip().into()))
}
