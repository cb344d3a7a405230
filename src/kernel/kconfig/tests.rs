//! Configurations in memory that was scattered, mixed with others' and damaged on purpose.

use std::{collections::HashMap, ops::ControlFlow};

use proptest::prelude::*;

use super::{
    Identity, NoConfig, Recovered,
    owner::{Owner, Owners, Unknown},
    search,
};
use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange},
    mem::{PhysWrite, sparse::Sparse},
};

const IDENTITY: Identity<'static> =
    Identity { release: Some("6.1.0-1-test"), banner: Some("Linux version 6.1.0-1-test #1 SMP 6.1.50-1") };

/// A configuration of `options` options; `kind` changes some of the values.
fn config(version: &str, options: usize, kind: usize) -> String {
    let head = format!(
        "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 {version} Kernel Configuration\n#\n"
    );
    let lines = (0..options).map(|n| {
        let name = name(n);
        match (n + usize::from(n % 7 == 0) * kind) % 5 {
            0 => format!("\n#\n# Menu {n}\n#\nCONFIG_{name}=y\n"),
            1 => format!("# CONFIG_{name} is not set\n"),
            2 => format!("CONFIG_{name}=m\n"),
            3 => format!("CONFIG_{name}={n}\n"),
            _ => format!("CONFIG_{name}=\"text {n}\"\n"),
        }
    });
    head + &lines.collect::<String>()
}

fn name(n: usize) -> String {
    format!("{}_OPTION_{n}", ["NET", "SND_SOC", "USB", "X86"][n % 4])
}

fn names(options: usize) -> Vec<String> {
    (0..options).map(name).collect()
}

/// The options of a text, sorted.
fn options(text: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.contains("CONFIG_")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Memory with pages at places that say nothing of their order.
struct Host {
    ram: Sparse,
    owners: HashMap<PhysAddr, Owner>,
    used: u64,
}

/// A power of two of page frames; any odd factor permutes them.
const FRAMES: u64 = 2048;

impl Host {
    fn new() -> Self {
        let ram = PhysRange::with_len(PhysAddr::new(0), FRAMES * PAGE_SIZE).unwrap();
        Self { ram: Sparse::new([ram]), owners: HashMap::new(), used: 0 }
    }

    fn page(&mut self, bytes: &[u8]) -> PhysAddr {
        self.used += 1;
        let addr = PhysAddr::new(self.used * 1_237 % FRAMES * PAGE_SIZE);
        self.ram.write(addr, bytes).unwrap();
        addr
    }

    /// Pages of a file that `keep` keeps, in the page cache as `file` if that is given.
    fn file(&mut self, text: &str, file: Option<u64>, keep: impl Fn(usize) -> bool) -> &mut Self {
        for (index, page) in text.as_bytes().chunks(PAGE_SIZE as usize).enumerate().filter(|(n, _)| keep(*n))
        {
            let addr = self.page(page);
            let owner =
                file.map(|file| Owner { mapping: 0xffff_8880_0000_0000 + file * 8, index: index as u64 });
            self.owners.extend(owner.map(|owner| (addr, owner)));
        }
        self
    }

    #[track_caller]
    fn search(&self, names: &[String]) -> Recovered {
        self.try_search(names).unwrap()
    }

    fn try_search(&self, names: &[String]) -> Result<Recovered, NoConfig> {
        let owners: &dyn Owners = if self.owners.is_empty() { &Unknown } else { self };
        search(&self.ram, self.ram.ram(), owners, IDENTITY, names, &mut |_, _| ControlFlow::Continue(()))
    }
}

impl Owners for Host {
    fn owners(&self, pages: &[PhysAddr]) -> Vec<Option<Owner>> {
        pages.iter().map(|page| self.owners.get(page).copied()).collect()
    }
}

#[test]
fn the_page_cache_gives_the_file_back() {
    let ours = config("6.1.50", 900, 0);
    let mut host = Host::new();
    host.file(&ours, Some(1), |_| true).file(&config("5.10.7", 900, 1), Some(2), |_| true);
    let Recovered { text, report } = host.search(&[]);
    assert_eq!(text, ours);
    assert!(report.is_complete());
    assert_eq!((report.options, report.cut.len(), report.others.len()), (900, 0, 1));
    let edges = ours.len() / PAGE_SIZE as usize;
    assert!((edges / 2..=edges).contains(&report.stitched_by_page_cache), "{report:?}");
}

#[test]
fn a_source_tree_orders_the_pages() {
    let ours = config("6.1.50", 900, 0);
    let mut host = Host::new();
    host.file(&ours, None, |_| true);
    let Recovered { text, report } = host.search(&names(900));
    assert_eq!(text, ours);
    assert_eq!(report.stitched_by_page_cache, 0);
    assert!(report.is_complete() && report.stitched_by_order > 0, "{report:?}");
}

#[test]
fn halves_that_merely_fit_are_not_joined() {
    let ours = config("6.1.50", 900, 0);
    let mut host = Host::new();
    host.file(&ours, None, |_| true);
    let Recovered { text, report } = host.search(&[]);
    let (all, got) = (options(&ours), options(&text));
    assert!(got.iter().all(|line| all.contains(line)));
    assert_eq!(report.stitched_by_order, 0);
    assert!(!report.whole && !report.cut.is_empty() && got.len() < all.len(), "{report:?}");
}

#[test]
fn another_kernels_pages_prove_the_order_and_give_no_value() {
    let ours = config("6.1.50", 900, 0);
    let mut host = Host::new();
    // 45 options less: the cuts of the other file are elsewhere.
    host.file(&ours, None, |_| true).file(&config("5.10.7", 855, 1), None, |_| true);
    let Recovered { text, report } = host.search(&[]);
    let (all, got) = (options(&ours), options(&text));
    assert!(got.iter().all(|line| all.contains(line)));
    assert_eq!(report.others.first().map(|other| other.version.as_str()), Some("5.10.7"));
}

#[test]
fn only_another_kernels_configuration_is_none() {
    let mut host = Host::new();
    host.file(&config("5.10.7", 300, 0), Some(1), |_| true);
    let error = host.try_search(&[]).unwrap_err();
    assert!(error.to_string().contains("but of 5.10.7"), "{error}");
    assert!(Host::new().try_search(&[]).is_err());
}

#[test]
fn a_missing_page_leaves_a_gap() {
    let ours = config("6.1.50", 900, 0);
    for file in [Some(1), None] {
        let mut host = Host::new();
        host.file(&ours, file, |page| page != 2);
        let Recovered { text, report } = host.search(&names(900));
        let (all, got) = (options(&ours), options(&text));
        assert!(got.iter().all(|line| all.contains(line)), "{file:?}");
        assert!(!report.whole && got.len() < 850, "{file:?}");
    }
}

#[test]
fn a_stale_page_with_another_value_is_reported() {
    let ours = config("6.1.50", 900, 0);
    let line = "CONFIG_NET_OPTION_252=m\n";
    assert!(ours.contains(line));
    let stale = ours.replace(line, "CONFIG_NET_OPTION_252=y\n");
    let page = ours.find(line).unwrap() / PAGE_SIZE as usize;

    let mut host = Host::new();
    host.file(&ours, Some(1), |_| true).file(&stale, None, |index| index == page);
    let Recovered { text, report } = host.search(&[]);
    assert_eq!(text, ours, "the whole file wins");
    let conflict = report.conflicts.first().unwrap();
    assert_eq!(conflict.values, ["CONFIG_NET_OPTION_252=m", "CONFIG_NET_OPTION_252=y"]);
    assert!(conflict.written && report.is_complete());

    // Without the page cache's word, nothing tells the stale page from the other.
    let mut host = Host::new();
    host.file(&ours, None, |_| true).file(&stale, None, |index| index == page);
    let Recovered { text, report } = host.search(&names(900));
    assert!(!text.contains("NET_OPTION_252=") && !report.is_complete());
    assert!(options(&text).iter().all(|line| options(&ours).contains(line)));
}

#[test]
fn two_flavours_of_one_version_are_left_undecided() {
    let (ours, other) = (config("6.1.50", 300, 0), config("6.1.50", 300, 1));
    let mut host = Host::new();
    host.file(&ours, Some(1), |_| true).file(&other, Some(2), |_| true);
    let Recovered { text, report } = host.search(&[]);
    assert!(!report.is_complete() && !report.conflicts.is_empty());
    let (ours, other) = (options(&ours), options(&other));
    assert!(options(&text).iter().all(|line| ours.contains(line) && other.contains(line)));
}

#[test]
fn torn_lines_are_no_lines() {
    let ours = config("6.1.50", 900, 0);
    let mut host = Host::new();
    host.file(&ours, Some(1), |_| true);
    // A freed page whose middle was used again, and a line among other text.
    let mut torn = ours.as_bytes()[0x2000..0x3000].to_vec();
    torn[0x800..0x840].copy_from_slice(&[b'9'; 0x40]);
    host.page(&torn);
    host.page(b"see\nCONFIG_NET_OPTION_0=m\nfor more");
    let Recovered { text, report } = host.search(&[]);
    assert_eq!(text, ours);
    assert!(report.is_complete());
    assert_eq!(report.stray, 1);
}

#[test]
fn the_search_can_be_stopped_and_unreadable_memory_is_counted() {
    let mut host = Host::new();
    host.file(&config("6.1.50", 900, 0), Some(1), |_| true);
    let stop = &mut |_, _| ControlFlow::Break(());
    // The header's page is in the other half.
    let stopped = search(&host.ram, host.ram.ram(), &host, IDENTITY, &[], stop).unwrap_err();
    assert!(stopped.report.interrupted && stopped.to_string().ends_with("the search was interrupted"));
    assert_eq!(stopped.report.bytes, 4 << 20);

    let more: PhysRange = "0-0x802000".parse().unwrap();
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let found = search(&host.ram, &[more], &host, IDENTITY, &[], go_on).unwrap();
    assert_eq!((found.report.unreadable, found.report.bytes), (0x2000, 8 << 20));
    assert!(found.report.whole);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever pages are left, in the page cache or not, beside whatever of another kernel's: no wrong value.
    #[test]
    fn no_wrong_value(
        kept in prop::collection::vec(any::<bool>(), 16),
        cached in any::<bool>(),
        others in prop::collection::vec(any::<bool>(), 16),
        with_names in any::<bool>(),
    ) {
        let ours = config("6.1.50", 600, 0);
        let other = config("5.10.7", 600, 1).replace("CONFIG_USB_OPTION_10=", "CONFIG_USB_OPTION_10_LONGER=");
        let keep = |kept: &[bool], index: usize| kept.get(index).copied().unwrap_or(true);
        let mut host = Host::new();
        // The header page of the other kernel stays: without it nothing says that its pages are another kernel's.
        host.file(&ours, cached.then_some(1), |index| keep(&kept, index))
            .file(&other, cached.then_some(2), |index| index == 0 || keep(&others, index));
        let names = if with_names { names(600) } else { Vec::new() };
        if let Ok(Recovered { text, .. }) = host.try_search(&names) {
            let all = options(&ours);
            for line in options(&text) {
                prop_assert!(all.contains(&line), "{line}");
            }
        }
    }
}

/// Every page ends with half of a line that every other page could complete: four million lines, none of them proved.
#[test]
fn halves_that_all_fit_each_other_are_not_joined() {
    const PAGES: usize = 300;
    let mut host = Host::new();
    let whole = "CONFIG_AAA=y\nCONFIG_XLONG=\"z\"\nCONFIG_BBB=y\n";
    let mut names: Vec<String> = (0..8).map(|n| format!("O{n}")).collect();
    names.extend(["AAA", "XLONG", "BBB"].map(str::to_owned));
    host.page(format!("#\n# Linux/x86 6.1.0-1-test Kernel Configuration\n#\n{whole}").as_bytes());
    for n in 0..PAGES {
        let head = format!("{}{n:05}\"\nCONFIG_BBB=y\nCONFIG_O1=y\nCONFIG_AAA=y\n", "a".repeat(1000));
        let tail = format!("CONFIG_XLONG=\"{n:05}");
        let fill = PAGE_SIZE as usize - head.len() - tail.len();
        host.page(format!("{head}{tail}{}", "b".repeat(fill)).as_bytes());
    }
    let found = host.search(&names);
    assert!(found.report.pages > PAGES, "{}", found.report.pages);
    assert_eq!((found.report.stitched_by_order, found.report.stitched_by_page_cache), (0, 0));
    assert!(!found.text.contains("aaa"), "{}", found.text.len());
    assert_eq!(
        found.report.limits,
        ["there are more than 16384 ways to join halves of lines: none was taken"]
    );
    assert!(!found.report.is_complete());
}

/// A whole file among more pieces of text than are compared: one of those left out might have contradicted it.
#[test]
fn what_is_not_looked_at_is_said() {
    let mut host = Host::new();
    host.file(&config("6.1.50", 100, 0), None, |_| true);
    for n in 0..1100 {
        let lines: String = (0..8).map(|line| format!("CONFIG_P{n}_{line}=y\n")).collect();
        host.page(format!("\u{1}\n{lines}\u{1}\n").as_bytes());
    }
    let report = host.search(&[]).report;
    let [limit] = report.limits.as_slice() else { panic!("{:?}", report.limits) };
    assert!(limit.ends_with("with the fewest options were left out"), "{limit}");
    assert!(!report.is_complete());
}
