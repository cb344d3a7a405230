//! NetTLP's encapsulation: one TLP per UDP datagram behind a header of 6 bytes, and which port it uses.
//!
//! The adapter stamps what it sends with a sequence number over all its frames and with its 156.25 MHz clock;
//! it ignores both on receipt, and other responders leave them 0. Source: behaviour of NetTLP adapters since
//! version 0.22 (`PortRule::default`) and of earlier ones (mask 0x0f).

/// Bytes before the TLP.
pub const HEADER_LEN: usize = 6;
/// Port of tag 0 on current adapters.
pub const PORT_BASE: u16 = 0x3000;
/// Tag bits that take part in the port on current adapters.
pub const PORT_MASK: u16 = 0xff;
/// Largest datagram: headers and 4096 bytes of data.
pub const MAX_DATAGRAM: usize = HEADER_LEN + 16 + 4096;

/// The NetTLP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Counts the adapter's frames, whatever port they go to.
    pub sequence: u16,
    /// The adapter's clock when the frame left, in ticks of 6.4 ns; 0 from responders without a clock.
    pub timestamp: u32,
}

impl Stamp {
    /// The header as sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let ([s0, s1], [t0, t1, t2, t3]) = (self.sequence.to_be_bytes(), self.timestamp.to_be_bytes());
        [s0, s1, t0, t1, t2, t3]
    }

    /// Splits a datagram into its stamp and its TLP; `None` when it is shorter than the header.
    #[must_use]
    pub fn split(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (&[s0, s1, t0, t1, t2, t3], tlp) = datagram.split_first_chunk::<HEADER_LEN>()?;
        let sequence = u16::from_be_bytes([s0, s1]);
        Some((Self { sequence, timestamp: u32::from_be_bytes([t0, t1, t2, t3]) }, tlp))
    }
}

/// Which port belongs to a tag: `base + (tag & mask)`, at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRule {
    base: u16,
    mask: u16,
}

impl Default for PortRule {
    fn default() -> Self {
        Self { base: PORT_BASE, mask: PORT_MASK }
    }
}

impl PortRule {
    /// The rule, or `None` when a tag's port would be 0 or above 65535.
    #[must_use]
    pub fn new(base: u16, mask: u16) -> Option<Self> {
        (base != 0 && base.checked_add(mask & 0xff).is_some()).then_some(Self { base, mask })
    }

    /// The port of `tag`.
    #[must_use]
    pub fn port(self, tag: u8) -> u16 {
        self.base.wrapping_add(self.slot(tag).into())
    }

    /// The part of `tag` that tells ports apart.
    #[must_use]
    pub fn slot(self, tag: u8) -> u8 {
        (u16::from(tag) & self.mask) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_of_a_captured_reply() {
        let datagram = [0x02, 0x19, 0x44, 0x9e, 0x1a, 0x06, 0x4a];
        let (stamp, tlp) = Stamp::split(&datagram).unwrap();
        assert_eq!(stamp, Stamp { sequence: 0x0219, timestamp: 0x449e_1a06 });
        assert_eq!(tlp, [0x4a]);
        assert_eq!(stamp.to_bytes(), datagram[..6]);
        assert_eq!(Stamp::split(&datagram[..5]), None);
    }

    #[test]
    fn ports() {
        assert_eq!(PortRule::default().port(0xff), 12543);
        assert_eq!(PortRule::new(0x4000, 0x0f).unwrap().port(0x21), 0x4001);
        assert_eq!(PortRule::new(0xff80, 0xff), None);
        assert_eq!(PortRule::new(0, 0xff), None);
    }
}
