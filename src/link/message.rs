//! Messages to the NetTLP driver on the target: the adapter's requester ID, BAR4 and MSI-X table.
//!
//! One little-endian 32-bit number asks, one datagram answers; there are no errors on the wire. A number the
//! driver does not know makes it answer with uninitialised memory, so only these are ever sent.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{LinkError, Requester};

/// Where the driver listens.
pub const DRIVER_PORT: u16 = 12287;
/// Entries of the MSI-X table.
pub const MSIX_ENTRIES: usize = 16;

const TIMEOUT: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 3;

/// A question to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Physical address of BAR4; answered with 8 bytes.
    Bar4,
    /// The adapter's requester ID; answered with 2 bytes.
    Requester,
    /// The MSI-X table; answered with 16 entries of 12 bytes.
    Msix,
}

impl Question {
    /// The question as sent.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        let number: u32 = match self {
            Self::Bar4 => 1,
            Self::Requester => 2,
            Self::Msix => 3,
        };
        number.to_le_bytes()
    }

    /// The question in a datagram; `None` for any other.
    #[must_use]
    pub fn from_bytes(datagram: &[u8]) -> Option<Self> {
        [Self::Bar4, Self::Requester, Self::Msix].into_iter().find(|question| question.to_bytes() == datagram)
    }
}

/// Asks the driver at `host` for the adapter's requester ID.
///
/// # Errors
/// [`LinkError::NoDriver`] when nobody answers, or with something that is no requester ID.
pub fn ask_requester(host: IpAddr) -> Result<Requester, LinkError> {
    let host = SocketAddr::new(host, DRIVER_PORT);
    let failed = |kind| LinkError::NoDriver { host, kind };
    let answer = ask(host, Question::Requester).map_err(|error| failed(error.kind()))?;
    match answer.as_slice().try_into().map(u16::from_le_bytes) {
        // An unset ID reads as 0, which is the host bridge.
        Ok(raw) if raw != 0 => Ok(Requester::from_raw(raw)),
        _ => Err(failed(io::ErrorKind::InvalidData)),
    }
}

/// Asks `question` and returns the answer's bytes.
///
/// # Errors
/// When no answer comes; a lost datagram is asked for again.
pub fn ask(host: SocketAddr, question: Question) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if host.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(host)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = vec![0; 512];
    for _ in 0..ATTEMPTS {
        socket.send(&question.to_bytes())?;
        match socket.recv(&mut answer) {
            Ok(len) => {
                answer.truncate(len);
                return Ok(answer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        assert_eq!(Question::Bar4.to_bytes(), [1, 0, 0, 0]);
        assert_eq!(Question::Requester.to_bytes(), [2, 0, 0, 0]);
        assert_eq!(Question::Msix.to_bytes(), [3, 0, 0, 0]);
        assert_eq!(Question::from_bytes(&[3, 0, 0, 0]), Some(Question::Msix));
        for other in [&[4, 0, 0, 0][..], &[0, 0, 0, 1], &[1, 0, 0], &[]] {
            assert_eq!(Question::from_bytes(other), None);
        }
    }
}
