//! The fuzz targets over their kept seeds and over changes of them: what was found once stays fixed, and a parser that
//! begins to panic is seen without a fuzzer.

use std::{fs, path::Path};

use nettlp_gdb::emulator::SplitMix64;

#[allow(unreachable_pub, reason = "the fuzzer's own crate has these as its interface")]
#[path = "../../fuzz/src/lib.rs"]
pub(crate) mod targets;

/// Changes of each seed; fewer where each takes a walk through a whole kernel.
const CHANGES: usize = 40;
const CHANGES_OF_KERNELS: usize = 5;

/// A few bytes of `seed` changed, cut off, repeated or set to what breaks counts.
fn change(random: &mut SplitMix64, seed: &[u8]) -> Vec<u8> {
    let mut below = |bound: usize| random.below(bound as u64) as usize;
    let mut changed = seed.to_vec();
    for _ in 0..=below(6) {
        let at = below(changed.len());
        match below(5) {
            0 if !changed.is_empty() => changed[at] ^= 1 << below(8),
            1 if !changed.is_empty() => changed[at] = [0, 0xff, 0x7f, 0x80][below(4)],
            2 => changed.truncate(at),
            3 => {
                let len = below(64).min(changed.len() - at);
                let again = changed[at..at + len].to_vec();
                changed.splice(at..at, again);
            }
            _ => {
                for byte in changed.iter_mut().skip(at).take(4) {
                    *byte = 0xff;
                }
            }
        }
    }
    changed
}

fn check(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no seed");
    let changes = match name {
        "attach" | "kernel" | "packets" => CHANGES_OF_KERNELS,
        "walks" => 1,
        _ => CHANGES,
    };
    let mut random = SplitMix64::new(1);
    for file in files {
        let seed = fs::read(&file).unwrap();
        target(&seed);
        for _ in 0..changes {
            target(&change(&mut random, &seed));
        }
    }
    target(&[]);
}

macro_rules! corpus {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), targets::$name);
        })*

        #[test]
        fn every_target_is_known() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
            let mut names: Vec<String> = fs::read_dir(directory)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort();
            let mut here = vec![$(stringify!($name)),*];
            here.sort_unstable();
            assert_eq!(names, here);
        }
    };
}

corpus!(
    attach, btf, datagrams, dwarf, image, journal, kallsyms, kconfig, kernel, orc, packets, printk, profile,
    records, tables, tlp, vmcoreinfo, walks
);
