//! Stacks, tables, registers and tasks with random bytes in them: a walk ends, says only what follows from the bytes,
//! and takes little memory.
//!
//! `NETTLP_GDB_CASES=1000000 cargo test --release damaged` runs a million of them and holds the peak of the whole
//! process against [`MAX_MEMORY`]; without it there are [`USUAL_CASES`]. A case is made from its number alone, which a
//! failure names.

use super::*;
use crate::{
    emulator::SplitMix64,
    kernel::{
        halted::tests::{die, recover},
        testing::orc_kernel::{ENTRIES, IPS, LEN, LOOKUP, VARIABLES},
    },
};

const USUAL_CASES: u64 = 2000;
const MAX_MEMORY: u64 = 64 << 20;

/// A value that a pointer, an offset or a count may have to mislead.
fn word(random: &mut SplitMix64) -> u64 {
    let stack = TEXT + STACKS + random.below(3 * STACK_LEN);
    match random.below(8) {
        0 => random.draw(),
        1 => stack & !7,
        2 => stack,
        3 => TEXT + random.below(0x1000),
        4 => function(FUNCTIONS[random.below(10) as usize]) + RETURN,
        5 => u64::MAX - random.below(16),
        6 => random.below(16),
        _ => TEXT + random.below(LEN),
    }
}

/// Damages a few words, mostly where they matter, and remembers what was there.
fn damage(random: &mut SplitMix64, bytes: &mut [u8]) -> Vec<(usize, [u8; 8])> {
    let mut before = Vec::new();
    for _ in 0..1 + random.below(6) {
        let at = match random.below(6) {
            0 => IPS + random.below(0x50),
            1 => ENTRIES + random.below(0x78),
            2 => LOOKUP + random.below(0x28),
            3 => TASKS + random.below(0x300),
            4 => VARIABLES + random.below(0x20),
            // The used end of one of the stacks.
            _ => STACKS + (1 + random.below(3)) * STACK_LEN - 8 * (1 + random.below(60)),
        } as usize;
        let at = at.min(bytes.len() - 8);
        let old: [u8; 8] = bytes[at..at + 8].try_into().unwrap();
        before.push((at, old));
        let new = word(random).to_le_bytes();
        let len = 1 + random.below(8) as usize;
        bytes[at..at + len].copy_from_slice(&new[..len]);
    }
    before
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// What holds of any walk: it ends, upwards, on the stacks it was given.
fn check(case: u64, trace: &Trace) {
    assert!(trace.frames.len() <= MAX_FRAMES, "case {case}");
    for pair in trace.frames.windows(2) {
        let [inner, outer] = pair else { unreachable!() };
        let (from, to) = (inner.registers.rsp.unwrap(), outer.registers.rsp.unwrap());
        assert!(
            inner.stack != outer.stack || to > from || inner.found_by == FoundBy::PtRegs,
            "case {case}: {trace:?}"
        );
    }
    if let End::Broken(reason) = &trace.end {
        assert!(!reason.is_empty(), "case {case}");
    }
}

#[test]
fn damaged_memory_ends_every_walk() {
    let asked = std::env::var("NETTLP_GDB_CASES").ok().map(|cases| cases.parse::<u64>().unwrap());
    let mut ways = std::collections::BTreeMap::<&str, u64>::new();
    let cases = asked.unwrap_or(USUAL_CASES);
    for (at, format) in FORMATS.into_iter().enumerate() {
        let mut made = OrcKernel::new(format);
        let tasks = [made.sleeper(0, Outside::User, READER), made.sleeper(1, Outside::Thread, THREAD)];
        die(&mut made);
        let (kernel, bytes) = made.shared();
        for case in (at as u64..cases).step_by(FORMATS.len()) {
            let mut random = SplitMix64::new(case);
            let before = damage(&mut random, &mut bytes.lock().unwrap());
            match Unwinder::new(&kernel) {
                Err(_) => *ways.entry("refused tables").or_default() += 1,
                Ok(unwinder) => {
                    let starts: Vec<Start> = tasks.iter().filter_map(|task| start(&kernel, *task)).collect();
                    for trace in unwinder.walk(starts) {
                        check(case, &trace);
                        let way = match trace.end {
                            End::User { .. } => "user",
                            End::Outermost => "outermost",
                            End::Broken(_) => "broken",
                        };
                        *ways.entry(way).or_default() += 1;
                    }
                    if let Ok(trace) = recover(&kernel, &unwinder, 2) {
                        check(case, &trace);
                        *ways.entry("recovered").or_default() += 1;
                    }
                }
            }
            let mut bytes = bytes.lock().unwrap();
            for (at, old) in before.into_iter().rev() {
                bytes[at..at + 8].copy_from_slice(&old);
            }
        }
    }
    // Damage that no case does would test nothing.
    for way in ["refused tables", "user", "outermost", "broken", "recovered"] {
        assert!(ways.get(way).is_some_and(|count| *count > cases / 1000), "{way}: {ways:?}");
    }
    if asked.is_some() {
        println!("{cases} cases: {ways:?}, peak of the process {} KiB", peak_memory() >> 10);
        assert!(peak_memory() < MAX_MEMORY, "{} bytes", peak_memory());
    }
}
