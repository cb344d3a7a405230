//! Writes to the target, one after the other, each proved by reading it back.
//!
//! A write over PCIe is posted: nothing acknowledges it, and a lost datagram looks like success. So the bytes are read
//! before and after. What cannot be read (no RAM, forbidden, outside the operator's ranges) is not written either, by
//! construction: the read before goes through every layer that refuses. A write that was lost is reported and never
//! sent again: whether it is on its way, late, or was overtaken by one of the target's own is not for this layer to
//! guess. Whoever holds a [`Writer`] was allowed to write; there is no other way to write than through one.

use std::sync::{Arc, Mutex, PoisonError};

use super::{MemError, PhysMem, PhysWrite, cache::Cache, guard};
use crate::addr::{self, PAGE_SIZE, PhysAddr, PhysRange};

/// How often what was written is read back before it counts as lost. A read does not overtake a write on the bus
/// (PCI Express Base Specification, section 2.4.1), but the network may deliver their datagrams in another order.
const READ_BACKS: u32 = 8;

/// Why a write did not happen, or is not known to have.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Nothing, or more than a page.
    #[error("a write takes 1 to {PAGE_SIZE} bytes, not {0}")]
    Length(usize),
    /// The profile does not allow it.
    #[error("refused: {range} is not inside one range of `memory.write` in the profile")]
    Outside {
        /// What was to be written.
        range: PhysRange,
    },
    /// It would pass the end of the address space.
    #[error("refused: {len} bytes at {addr} pass the end of the address space")]
    PastEnd {
        /// First address.
        addr: PhysAddr,
        /// Bytes.
        len: usize,
    },
    /// What was there before could not be read.
    #[error("nothing was written, because what is there now cannot be read: {0}")]
    Unreadable(MemError),
    /// It could not be sent.
    #[error("{len} bytes at {addr} could not be written, or not all: {source}")]
    Unsent {
        /// First address.
        addr: PhysAddr,
        /// Bytes.
        len: usize,
        /// Why.
        source: MemError,
    },
    /// It was sent; what came of it is not known.
    #[error("{len} bytes were sent to {addr} and may have been written; they cannot be read back: {source}")]
    Unproved {
        /// First address.
        addr: PhysAddr,
        /// Bytes.
        len: usize,
        /// Why.
        source: MemError,
    },
    /// It was sent, and nothing changed.
    #[error(
        "the write of {len} bytes at {addr} was lost: what was there before is there still. It was not sent again; look, \
         and repeat it if that is still right"
    )]
    Lost {
        /// First address.
        addr: PhysAddr,
        /// Bytes.
        len: usize,
    },
    /// It was sent, and something else is there now.
    #[error(
        "{len} bytes at {addr} are not what was written, the first different one is at {at}: part of the write was lost, \
         or the target wrote there too"
    )]
    Differs {
        /// First address.
        addr: PhysAddr,
        /// Bytes.
        len: usize,
        /// Where the first different byte is.
        at: PhysAddr,
    },
}

/// The right to write to some ranges of a target.
pub struct Writer<M> {
    to: Arc<dyn PhysWrite>,
    memory: Arc<dyn PhysMem>,
    cache: Arc<Cache<M>>,
    ranges: Vec<PhysRange>,
    turn: Mutex<()>,
}

impl<M: PhysMem> Writer<M> {
    /// Writes to `to`, inside `ranges`. `memory` is the same memory read through all that may refuse, the cache among
    /// it.
    pub fn new(
        to: Arc<dyn PhysWrite>,
        memory: Arc<dyn PhysMem>,
        cache: Arc<Cache<M>>,
        ranges: Vec<PhysRange>,
    ) -> Self {
        Self { to, memory, cache, ranges: addr::merged(ranges), turn: Mutex::default() }
    }

    /// Whether the operator allowed `len` bytes at `addr` to be written.
    ///
    /// # Errors
    /// [`WriteError::Length`], [`WriteError::PastEnd`] or [`WriteError::Outside`].
    pub fn check(&self, addr: PhysAddr, len: usize) -> Result<(), WriteError> {
        if len == 0 || len as u64 > PAGE_SIZE {
            return Err(WriteError::Length(len));
        }
        let range = PhysRange::with_len(addr, len as u64).ok_or(WriteError::PastEnd { addr, len })?;
        if guard::covered(&self.ranges, addr, len as u64) {
            Ok(())
        } else {
            Err(WriteError::Outside { range })
        }
    }

    /// Writes `data` at `addr` and reads it back.
    ///
    /// # Errors
    /// [`WriteError`]; only [`WriteError::Unsent`] and what stands after it can have changed anything.
    pub fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), WriteError> {
        let len = data.len();
        self.check(addr, len)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.fresh(addr, len).map_err(WriteError::Unreadable)?;
        let sent = self.to.write(addr, data).map_err(|source| WriteError::Unsent { addr, len, source });
        let outcome = sent.and_then(|()| self.prove(addr, data, &before));
        self.cache.invalidate();
        match &outcome {
            Ok(()) => log::info!("wrote {len} bytes at physical {addr}, read back and equal"),
            Err(error) => log::warn!("{error}"),
        }
        outcome
    }

    fn prove(&self, addr: PhysAddr, data: &[u8], before: &[u8]) -> Result<(), WriteError> {
        let len = data.len();
        let mut now = Vec::new();
        for _ in 0..READ_BACKS {
            now = self.fresh(addr, len).map_err(|source| WriteError::Unproved { addr, len, source })?;
            if now == data {
                return Ok(());
            }
        }
        if now == before {
            return Err(WriteError::Lost { addr, len });
        }
        let different = now.iter().zip(data).take_while(|(now, wanted)| now == wanted).count();
        Err(WriteError::Differs { addr, len, at: addr.wrapping_add(different as u64) })
    }

    /// What is there now, whatever was read before.
    fn fresh(&self, addr: PhysAddr, len: usize) -> Result<Vec<u8>, MemError> {
        self.cache.invalidate();
        let mut bytes = vec![0; len];
        self.memory.read(addr, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Fault, cache::Validity, fence::Fence, guard::Guard, sparse::Sparse};

    fn range(text: &str) -> PhysRange {
        text.parse().unwrap()
    }

    /// A bus that writes to the memory as `how` says.
    struct Bus(Arc<Sparse>, fn(&Sparse, PhysAddr, &[u8]) -> Result<(), MemError>);

    impl PhysWrite for Bus {
        fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError> {
            (self.1)(&self.0, addr, data)
        }
    }

    struct Bench {
        memory: Arc<Sparse>,
        guard: Arc<Guard>,
        writer: Writer<Fence<Arc<Sparse>>>,
    }

    fn bench(how: fn(&Sparse, PhysAddr, &[u8]) -> Result<(), MemError>) -> Bench {
        let memory = Arc::new(Sparse::new([range("0-64k")]));
        let fence = Fence::new(Arc::clone(&memory), Vec::new(), vec![range("0x3004-0x3006")]);
        let cache = Arc::new(Cache::new(fence, Validity::Stop));
        let guard = Arc::new(Guard::new(cache.clone(), None));
        guard.confine(&[range("0x1000-0x8000")]);
        let bus = Arc::new(Bus(Arc::clone(&memory), how));
        let ranges = ["0-0x2000", "0x2000-0x4000", "0x5000-0x5010"].map(range).to_vec();
        Bench { memory, guard: Arc::clone(&guard), writer: Writer::new(bus, guard, cache, ranges) }
    }

    fn said(bench: &Bench, addr: u64, data: &[u8]) -> String {
        match bench.writer.write(PhysAddr::new(addr), data) {
            Ok(()) => "written".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_write_is_seen_by_who_had_read_before() {
        let bench = bench(|memory, addr, data| memory.write(addr, data));
        let read = || bench.guard.read_u64(PhysAddr::new(0x1ffc)).unwrap();
        assert_eq!(read(), 0);
        assert_eq!(said(&bench, 0x1ffe, &[0xab; 4]), "written");
        assert_eq!(read(), 0xabab_abab_0000);
        assert_eq!(said(&bench, 0x1000, &[7; 4096]), "written");
    }

    #[test]
    fn what_is_refused_is_not_sent() {
        let bench = bench(|_, addr, _| panic!("something was sent to {addr}"));
        let outside = "refused: 0x500f-0x5011 is not inside one range of `memory.write` in the profile";
        assert_eq!(said(&bench, 0x500f, &[1; 2]), outside);
        assert!(said(&bench, 0x4000, &[1]).starts_with("refused: 0x4000-0x4001 is not inside"));
        assert_eq!(said(&bench, 0x1000, &[]), "a write takes 1 to 4096 bytes, not 0");
        assert_eq!(said(&bench, 0x1000, &[0; 4097]), "a write takes 1 to 4096 bytes, not 4097");
        assert!(said(&bench, u64::MAX, &[0; 4]).contains("pass the end"));
        assert!(
            said(&bench, 0x3003, &[1; 2]).contains("`memory.forbidden` of the profile has 0x3004-0x3006")
        );
        assert!(said(&bench, 0x800, &[1]).contains("not known to be RAM"), "allowed and yet no RAM");
    }

    #[test]
    fn what_became_of_a_write_is_told_apart() {
        let lost = bench(|_, _, _| Ok(()));
        assert!(
            said(&lost, 0x1000, &[1; 8])
                .starts_with("the write of 8 bytes at 0x1000 was lost: what was there")
        );
        assert_eq!(said(&lost, 0x1000, &[0; 8]), "written", "that is what is there");
        let half = bench(|memory, addr, data| memory.write(addr, &data[..data.len() / 2]));
        assert!(said(&half, 0x1000, &[1; 8]).contains("the first different one is at 0x1004"));
        let down = bench(|_, addr, data| Err(MemError { addr, len: data.len(), fault: Fault::NotAttempted }));
        assert!(
            said(&down, 0x1000, &[1; 8]).starts_with("8 bytes at 0x1000 could not be written, or not all")
        );
        assert!(half.memory.read_u64(PhysAddr::new(0x1000)).unwrap() == 0x0101_0101);
    }
}
