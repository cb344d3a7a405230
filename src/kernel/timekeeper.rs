//! The wall clock (`kernel/time/timekeeping.c`): when the host was booted.

use super::Kernel;
use crate::{
    addr::VirtAddr,
    types::{Field, TypeError, TypeSource},
};

/// Nanoseconds from 1970 to the moment that `CLOCK_BOOTTIME` counts from, by the wall clock as it is set now; `None`
/// when the timekeeper is not to be found, or what is there does not agree with itself.
#[must_use]
pub fn booted(kernel: &Kernel) -> Option<i64> {
    let layout = Layout::resolve(kernel.types.as_deref()?).ok()?;
    let symbols = kernel.symbols("the wall clock").ok()?;
    // An array since clocks beside the core one exist (6.17); the core one comes first.
    let core = symbols.find("tk_core").or_else(|| symbols.find("timekeeper_data"))?;
    layout.booted(kernel, core)
}

struct Layout {
    start: u64,
    bytes: usize,
    seconds: Field<i64>,
    nanoseconds: Field<i64>,
    real: Field<i64>,
    boot: Field<i64>,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let member = |name| Field::resolve(types, "timekeeper", name);
        Ok(Self {
            // The struct of `tk_core` has a name since it holds a lock and a shadow too (6.13).
            start: types.field("tk_data", "timekeeper").map_or(behind_sequence(types), |field| field.offset),
            bytes: usize::try_from(types.struct_size("timekeeper")?.min(1 << 12)).unwrap_or(0),
            seconds: member("wall_to_monotonic.tv_sec")?,
            nanoseconds: member("wall_to_monotonic.tv_nsec")?,
            real: member("offs_real")?,
            boot: member("offs_boot")?,
        })
    }

    fn booted(&self, kernel: &Kernel, core: VirtAddr) -> Option<i64> {
        let bytes = kernel.memory.read_vec(core.wrapping_add(self.start), self.bytes).ok()?;
        let monotonic = self
            .seconds
            .get(&bytes)?
            .checked_mul(1_000_000_000)?
            .checked_add(self.nanoseconds.get(&bytes)?)?;
        let real = self.real.get(&bytes)?;
        // The kernel keeps both forms in step (`tk_set_wall_to_mono`): what differs is not a timekeeper, or is torn.
        let agrees = real != 0 && monotonic.checked_neg() == Some(real);
        agrees.then(|| real.checked_sub(self.boot.get(&bytes)?)).flatten()
    }
}

/// Offset of `timekeeper` in the nameless struct of `tk_core`: a sequence count is before it, and with that, since 5.10,
/// what lock it goes with (`include/linux/seqlock.h`: with `PREEMPT_RT` or `LOCKDEP`, which watches the count as well).
fn behind_sequence(types: &dyn TypeSource) -> u64 {
    let size = |name| types.struct_size(name).ok();
    size("seqcount_raw_spinlock").or_else(|| size("seqcount")).unwrap_or(8).next_multiple_of(8)
}

#[cfg(test)]
#[path = "timekeeper/tests.rs"]
mod tests;
