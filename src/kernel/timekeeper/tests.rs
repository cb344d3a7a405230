//! A timekeeper in a buffer.

use std::sync::Arc;

use super::*;
use crate::kernel::testing::{Flat, Structs, kernel};

const CORE: VirtAddr = VirtAddr::new(0x1000);

/// What is read when `words` follow a sequence count alone.
fn booted_with(words: [i64; 4]) -> Option<i64> {
    booted_behind(Structs::new(), 8, words)
}

/// What is read when `words` are at `offset`, with the timekeeper among `types`.
fn booted_behind(types: Structs, offset: u64, words: [i64; 4]) -> Option<i64> {
    let members: Vec<_> = ["wall_to_monotonic.tv_sec", "wall_to_monotonic.tv_nsec", "offs_real", "offs_boot"]
        .into_iter()
        .zip([0, 8, 16, 24])
        .map(|(name, offset)| (name, offset, 8))
        .collect();
    let types = types.add("timekeeper", 32, &members);
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = Flat { start: CORE.wrapping_add(offset), bytes };
    let kernel = kernel(Arc::new(memory), Arc::new(types), VirtAddr::NULL);
    Layout::resolve(kernel.types.as_deref().unwrap()).unwrap().booted(&kernel, CORE)
}

#[test]
fn boot_is_the_wall_clock_less_what_ran_and_slept() {
    assert_eq!(
        booted_with([-1_700_000_001, 250, 1_700_000_000_999_999_750, 750]),
        Some(1_700_000_000_999_999_000)
    );
}

#[test]
fn the_lock_of_a_sequence_count_is_before_the_clock() {
    let words = [-1_700_000_001, 250, 1_700_000_000_999_999_750, 750];
    let plain = || Structs::new().add("seqcount", 4, &[("sequence", 0, 4)]);
    let counted = |size| plain().add("seqcount_raw_spinlock", size, &[("seqcount.sequence", 0, 4)]);
    for (types, offset) in [(plain(), 8), (counted(4), 8), (counted(16), 16), (counted(64), 64)] {
        assert_eq!(booted_behind(types, offset, words), Some(1_700_000_000_999_999_000), "at {offset}");
    }
}

#[test]
fn what_disagrees_with_itself_is_no_clock() {
    assert_eq!(booted_with([-1_700_000_001, 250, 1_700_000_000_999_999_751, 0]), None);
    assert_eq!(booted_with([0; 4]), None);
    assert_eq!(booted_with([i64::MIN, 0, 1, 0]), None);
}
