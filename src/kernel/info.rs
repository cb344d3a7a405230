//! Everything that identifies a kernel and says where it is, gathered for `info`.

mod distribution;

use serde::Serialize;

pub use distribution::{Distribution, distribution};

use super::{Confidence, Evidence, Kernel, percpu, poison};
use crate::{
    addr::{Hex, PhysRange, VirtAddr, hex_bytes},
    symbols::Relocated,
};

/// What `info` shows; in JSON addresses are `"0x..."` strings and unknown values `null`.
#[derive(Debug, Serialize)]
pub struct Info {
    /// `uname -r`.
    pub release: Option<String>,
    /// `linux_banner`.
    pub banner: Option<String>,
    /// The distribution whose kernel it is, by the marks in the banner.
    pub distribution: Option<String>,
    /// GNU build id, hexadecimal.
    pub build_id: Option<String>,
    /// Run-time address of `_text`.
    pub text: Hex,
    /// Physical address of `_text`.
    pub text_phys: Hex,
    /// `phys_base`, modulo 2^64.
    pub phys_base: Hex,
    /// KASLR slide, modulo 2^64.
    pub slide: Option<Hex>,
    /// Physical address of the top-level page table.
    pub root: Hex,
    /// 4 or 5.
    pub levels: u32,
    /// Start of the direct map.
    pub page_offset_base: Option<Hex>,
    /// Start of the vmalloc area.
    pub vmalloc_base: Option<Hex>,
    /// Start of the array of `struct page`.
    pub vmemmap_base: Option<Hex>,
    /// Memory encryption bit, 0 without.
    pub sme_mask: Hex,
    /// Run-time address of `init_task`.
    pub init_task: Option<Hex>,
    /// CPUs present, with the `task_struct` each runs; empty when symbols or types are missing.
    pub cpus: Vec<CpuInfo>,
    /// RAM, start and exclusive end.
    pub ram: Vec<[Hex; 2]>,
    /// Pages that the kernel took out of use after memory errors (`num_poisoned_pages`).
    pub poisoned_pages: Option<u64>,
    /// How each value was found.
    pub evidence: Vec<Evidence>,
}

/// A CPU in [`Info`].
#[derive(Debug, Serialize)]
pub struct CpuInfo {
    /// Its number.
    pub cpu: u32,
    /// Whether the kernel counts it as online.
    pub online: bool,
    /// `__per_cpu_offset` of it.
    pub per_cpu_offset: Hex,
    /// The task it runs; `None` when it was never started.
    pub current: Option<Hex>,
}

impl Info {
    /// Gathers what is known of `kernel`. What needs symbols or types that are missing stays empty.
    #[must_use]
    pub fn of(kernel: &Kernel) -> Self {
        let map = &kernel.map;
        let optional = |addr: Option<VirtAddr>| addr.map(|addr| Hex(addr.raw()));
        let cpu = |cpu: percpu::Cpu| CpuInfo {
            cpu: cpu.number,
            online: cpu.online,
            per_cpu_offset: Hex(cpu.offset),
            current: optional(cpu.current),
        };
        let distribution = map.banner.as_deref().and_then(distribution);
        let init_task = kernel.init_task("info").ok();
        let cpus: Vec<CpuInfo> =
            percpu::cpus(kernel).map(|cpus| cpus.into_iter().map(cpu).collect()).unwrap_or_default();
        let mut evidence = map.evidence.clone();
        evidence.extend(distribution.as_ref().map(|found| Evidence {
            what: "distribution",
            method: "banner",
            detail: format!("{:?} in its {}", found.mark, found.part),
            confidence: found.confidence,
        }));
        if let (Some(symbols), Some(addr)) = (&kernel.symbols, init_task) {
            note_symbol(&mut evidence, symbols, addr);
        }
        if !cpus.is_empty() {
            let (method, confidence) = ("per-CPU data", Confidence::Found);
            let detail = format!("{} in the masks, each with its __per_cpu_offset", cpus.len());
            evidence.push(Evidence { what: "cpus", method, detail, confidence });
        }
        let poisoned = poison::count(kernel);
        evidence.extend(poisoned.map(|count| Evidence {
            what: "poisoned_pages",
            method: count.method,
            detail: count.detail.to_owned(),
            confidence: Confidence::Found,
        }));
        Self {
            release: map.release.clone(),
            banner: map.banner.clone(),
            distribution: distribution.map(|found| found.name),
            build_id: map.build_id.as_deref().map(hex_bytes),
            text: Hex(map.text.raw()),
            text_phys: Hex(map.text_phys.raw()),
            phys_base: Hex(map.phys_base),
            slide: map.slide.map(Hex),
            root: Hex(map.root.raw()),
            levels: map.levels.count(),
            page_offset_base: optional(map.page_offset),
            vmalloc_base: optional(map.vmalloc_base),
            vmemmap_base: optional(map.vmemmap_base),
            sme_mask: Hex(map.sme_mask),
            init_task: optional(init_task),
            cpus,
            ram: map.ram.iter().map(|PhysRange { start, end }| [Hex(start.raw()), Hex(end.raw())]).collect(),
            poisoned_pages: poisoned.map(|count| count.pages),
            evidence,
        }
    }
}

/// What the symbols say of `init_task`: its source, or a second one where it was found without them.
fn note_symbol(evidence: &mut Vec<Evidence>, symbols: &Relocated, init_task: VirtAddr) {
    let table = symbols.table().table_name();
    let Some(named) = symbols.find("init_task") else { return };
    let found = |line: &&mut Evidence| line.what == "init_task" && line.confidence != Confidence::Dropped;
    let (detail, confidence) = match evidence.iter_mut().find(found) {
        None => (format!("{named}, by {table}"), Confidence::Found),
        // A profile's symbol is a source once.
        Some(line) if named == init_task && line.method == table => return,
        Some(line) if named == init_task => {
            return line.second(table);
        }
        Some(_) => (format!("{named} by {table} is not where the task was found"), Confidence::Dropped),
    };
    evidence.push(Evidence { what: "init_task", method: "symbol init_task", detail, confidence });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::LinkAddr,
        symbols::{Symbol, SymbolKind, SymbolRef, SymbolTable},
    };

    const INIT_TASK: LinkAddr = LinkAddr::new(0xffff_ffff_8241_3480);
    const SLIDE: u64 = 0x1260_0000;

    struct One;

    impl SymbolTable for One {
        fn table_name(&self) -> &str {
            "the table"
        }

        fn lookup(&self, name: &str) -> Option<Symbol> {
            let kind = SymbolKind::Object;
            (name == "init_task").then(|| Symbol { name: name.to_owned(), addr: INIT_TASK, size: 0, kind })
        }

        fn containing(&self, _: LinkAddr) -> Option<Symbol> {
            None
        }

        fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
            None
        }

        fn for_each(&self, _: &mut dyn FnMut(SymbolRef<'_>)) {}
    }

    #[test]
    fn a_symbol_is_a_source_or_a_second_one_or_contradicted() {
        let addr = VirtAddr::new(INIT_TASK.raw() + SLIDE);
        let said = |lines: &[(&'static str, Confidence)], init_task| {
            let line =
                |&(what, confidence)| Evidence { what, method: "M", detail: "D".to_owned(), confidence };
            let mut evidence: Vec<Evidence> = lines.iter().map(line).collect();
            note_symbol(&mut evidence, &Relocated::new(Box::new(One), SLIDE), init_task);
            let line = |line: &Evidence| format!("{} {:?} {}", line.method, line.confidence, line.detail);
            evidence.iter().map(line).collect::<Vec<_>>().join("; ")
        };
        let found = [("init_task", Confidence::Found)];
        assert_eq!(said(&[], addr), "symbol init_task Found 0xffffffff94a13480, by the table");
        assert_eq!(said(&found, addr), "M Proved D, as in the table");
        let dropped = [("init_task", Confidence::Dropped), ("root", Confidence::Found)];
        let own = "symbol init_task Found 0xffffffff94a13480, by the table";
        assert_eq!(said(&dropped, addr), format!("M Dropped D; M Found D; {own}"));
        assert_eq!(
            said(&found, addr.wrapping_add(64)),
            "M Found D; symbol init_task Dropped 0xffffffff94a13480 by the table is not where the task was found"
        );
    }
}
