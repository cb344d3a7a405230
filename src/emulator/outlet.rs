//! Sends frames: those of one answer with one system call.
//!
//! Frames for one port that are as long as the longest, and one that may be shorter at the end, go to the kernel as
//! one buffer, which it cuts again (generic segmentation offload, `UDP_SEGMENT`, udp(7)). On the wire, and for a
//! client that does not ask for it otherwise, they are datagrams like any other.

use std::net::SocketAddr;

use mio::net::UdpSocket;
use nix::sys::socket::{setsockopt, sockopt};

use crate::link::nettlp::HEADER_LEN;

/// Header of a completion (PCI Express Base Specification, section 2.2.9).
const COMPLETION_HEADER: usize = 12;
/// Frames in one buffer: half of what Linux allows (`UDP_MAX_SEGMENTS`, `include/linux/udp.h`).
const MAX_FRAMES: usize = 32;
/// Bytes in one buffer: less than the length in an IP header can say.
const MAX_BYTES: usize = 60_000;

/// Frames that wait for others to go with them.
pub(super) struct Outlet {
    /// Length of the longest frame; `None` where the kernel cuts nothing.
    longest: Option<usize>,
    bytes: Vec<u8>,
    /// The socket by its place among the adapter's, and where they go.
    destination: Option<(usize, SocketAddr)>,
}

impl Outlet {
    /// For completions of at most `max_payload` bytes of data, over `sockets`.
    pub(super) fn new(max_payload: u16, sockets: &[UdpSocket]) -> Self {
        let longest = HEADER_LEN + COMPLETION_HEADER + usize::from(max_payload);
        let cut = sockets.iter().try_for_each(|socket| {
            setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(longest).unwrap_or(i32::MAX))
        });
        if let Err(error) = cut {
            log::debug!("each frame will take a system call: {error}");
        }
        Self { longest: cut.is_ok().then_some(longest), bytes: Vec::new(), destination: None }
    }

    /// Sends `frame` from a socket, perhaps only with the next [`Outlet::flush`].
    pub(super) fn send(&mut self, sockets: &[UdpSocket], from: usize, to: SocketAddr, frame: &[u8]) {
        if self.destination != Some((from, to)) || !self.takes(frame) {
            self.flush(sockets);
        }
        self.destination = Some((from, to));
        self.bytes.extend(frame);
    }

    fn takes(&self, frame: &[u8]) -> bool {
        let Some(longest) = self.longest else { return false };
        self.bytes.len().is_multiple_of(longest)
            && frame.len() <= longest
            && self.bytes.len() < longest * MAX_FRAMES
            && self.bytes.len() + frame.len() <= MAX_BYTES
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self, sockets: &[UdpSocket]) {
        if let Some((from, to)) = self.destination.take()
            && let Some(socket) = sockets.get(from)
        {
            // A full send buffer or a client that has gone: on the wire, too, the frames would be lost.
            let _ = socket.send_to(&self.bytes, to);
        }
        self.bytes.clear();
    }
}
