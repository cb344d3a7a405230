//! Where reads may go at all.
//!
//! On a real host a DMA read outside RAM can hang a device or freeze the machine, so an address is not sent
//! until something vouches for it. Before the kernel is found that is the caller's own word
//! ([`Guard::permit`]) or the target's page tables ([`Guard::led_by_tables`]); afterwards it is the target's
//! own RAM map ([`Guard::confine`]). The operator's ranges, or what an image holds, bound all three.

use std::sync::{Arc, RwLock};

use super::{Fault, PhysMem, ReadOp};
use crate::addr::{self, PhysAddr, PhysRange};

/// The legacy video and firmware window: never RAM on a PC, and the one place where reads have side effects.
const LEGACY_HOLE: PhysRange = PhysRange { start: PhysAddr::new(0xa_0000), end: PhysAddr::new(0x10_0000) };

/// Why a read that leaves the operator's ranges is refused.
pub(super) const OUTSIDE: &str = "outside the RAM ranges given by the operator (--ram, `memory.ram`)";

/// Physical addresses have at most 52 bits (Intel SDM volume 3, section 4.1.4, MAXPHYADDR).
const MAX_PHYS: PhysAddr = PhysAddr::new(1 << 52);

/// What bounds every read, whatever else is found. The ranges are ascending, and none touches another.
#[derive(Debug, Clone)]
pub enum Limits {
    /// The operator's RAM ranges (`--ram`, the profile).
    Operator(Arc<[PhysRange]>),
    /// What the memory image holds.
    Image(Arc<[PhysRange]>),
}

impl Limits {
    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[PhysRange] {
        match self {
            Self::Operator(ranges) | Self::Image(ranges) => ranges,
        }
    }

    fn refusal(&self) -> Fault {
        match self {
            Self::Operator(_) => Fault::Refused(OUTSIDE),
            Self::Image(ranges) => Fault::NotInImage(Arc::clone(ranges)),
        }
    }
}

/// Refuses reads that nothing vouches for.
pub struct Guard {
    inner: Arc<dyn PhysMem>,
    limits: Option<Limits>,
    permitted: RwLock<Vec<PhysRange>>,
}

impl Guard {
    /// A guard that permits nothing yet. No later permission exceeds `limits`.
    #[must_use]
    pub fn new(inner: Arc<dyn PhysMem>, limits: Option<Limits>) -> Self {
        Self { inner, limits, permitted: RwLock::default() }
    }

    /// Vouches for `range`.
    pub fn permit(&self, range: PhysRange) {
        let mut permitted = self.permitted.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *permitted = addr::merged(permitted.iter().copied().chain([range]));
    }

    /// Replaces every permission so far by the target's RAM map.
    pub fn confine(&self, ram: &[PhysRange]) {
        let mut permitted = self.permitted.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *permitted = addr::merged(ram.iter().copied());
    }

    /// What is permitted now, ascending and disjoint.
    #[must_use]
    pub fn permitted(&self) -> Vec<PhysRange> {
        self.permitted.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What bounds every read.
    #[must_use]
    pub const fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// The same memory for reads whose addresses come out of the target's page tables: only the limits,
    /// the legacy hole and the width of a physical address bound it.
    #[must_use]
    pub fn led_by_tables(self: &Arc<Self>) -> Arc<dyn PhysMem> {
        Arc::new(LedByTables(Arc::clone(self)))
    }

    fn beyond_limits(&self, addr: PhysAddr, len: u64) -> Option<Fault> {
        let Some(end) = addr.checked_add(len).filter(|end| *end <= MAX_PHYS) else {
            return Some(Fault::Refused("beyond the 52 bits of a physical address"));
        };
        if addr < LEGACY_HOLE.end && end > LEGACY_HOLE.start {
            return Some(Fault::Refused("inside 0xa0000-0x100000, which is never RAM"));
        }
        match &self.limits {
            Some(limits) if !covered(limits.ranges(), addr, len) => Some(limits.refusal()),
            _ => None,
        }
    }
}

impl PhysMem for Guard {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let permitted = self.permitted();
        let unknown = Fault::Refused("not known to be RAM of the target");
        pass(&self.inner, ops, |addr, len| {
            let unknown = || (!covered(&permitted, addr, len)).then(|| unknown.clone());
            self.beyond_limits(addr, len).or_else(unknown)
        });
    }

    fn prefetch(&self, ranges: &[PhysRange]) {
        let permitted = self.permitted();
        let allowed = |range: &PhysRange| {
            self.beyond_limits(range.start, range.len()).is_none()
                && covered(&permitted, range.start, range.len())
        };
        self.inner.prefetch(&ranges.iter().copied().filter(allowed).collect::<Vec<_>>());
    }
}

struct LedByTables(Arc<Guard>);

impl PhysMem for LedByTables {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        pass(&self.0.inner, ops, |addr, len| self.0.beyond_limits(addr, len));
    }
}

/// Reads from `inner` what `refusal` has nothing against.
pub(crate) fn pass(
    inner: &dyn PhysMem,
    ops: &mut [ReadOp<'_>],
    refusal: impl Fn(PhysAddr, u64) -> Option<Fault>,
) {
    let mut allowed: Vec<&mut ReadOp<'_>> = Vec::with_capacity(ops.len());
    for op in ops {
        match refusal(op.addr, op.buf.len() as u64) {
            Some(fault) => op.fail(fault),
            None => allowed.push(op),
        }
    }
    let mut passed: Vec<ReadOp<'_>> =
        allowed.iter_mut().map(|op| ReadOp::new(op.addr, &mut *op.buf)).collect();
    inner.read_batch(&mut passed);
    let results: Vec<_> = passed.into_iter().map(|op| op.result).collect();
    for (op, result) in allowed.into_iter().zip(results) {
        op.result = result;
    }
}

/// Whether one of the merged `ranges` holds all `len` bytes from `addr`.
pub(super) fn covered(ranges: &[PhysRange], addr: PhysAddr, len: u64) -> bool {
    ranges.iter().any(|range| range.contains(addr, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::sparse::Sparse;

    fn range(text: &str) -> PhysRange {
        text.parse().unwrap()
    }

    fn outcome(mem: &dyn PhysMem, addr: u64) -> String {
        match mem.read(PhysAddr::new(addr), &mut [0; 8]) {
            Ok(()) => "read".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn nothing_is_read_before_it_is_vouched_for() {
        let ram: Arc<dyn PhysMem> = Arc::new(Sparse::new([range("0-1G")]));
        let guard = Arc::new(Guard::new(Arc::clone(&ram), Some(Limits::Operator([range("0-512M")].into()))));
        assert_eq!(
            outcome(&*guard, 0x1000),
            "cannot read 8 bytes at physical address 0x1000: refused: not known to be RAM of the target"
        );
        guard.permit(range("0x1000-0x2000"));
        guard.permit(range("0x2000-0x3000"));
        assert_eq!(outcome(&*guard, 0x1ffc), "read", "a read over the seam of two permissions");
        assert!(outcome(&*guard, 0x2ffc).contains("refused"));

        let led = guard.led_by_tables();
        assert_eq!(outcome(&*led, 0x40_0000), "read");
        assert!(outcome(&*led, 0xb_8000).contains("never RAM"));
        assert!(outcome(&*led, 512 << 20).contains("by the operator"));
        assert!(outcome(&*led, u64::MAX - 7).contains("52 bits"));

        let of_image = Arc::new(Guard::new(ram, Some(Limits::Image([range("0-512M")].into()))));
        assert_eq!(
            outcome(&*of_image.led_by_tables(), 512 << 20),
            "cannot read 8 bytes at physical address 0x20000000: not in the memory image (0x0-0x20000000)"
        );

        guard.confine(&[range("1M-2M")]);
        assert!(outcome(&*guard, 0x1000).contains("refused"));
        assert_eq!(outcome(&*guard, 0x10_0000), "read");
    }
}
