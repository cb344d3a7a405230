//! Everything that identifies a kernel and says where it is, gathered for `info`.

use serde::Serialize;

use super::{Evidence, Kernel, percpu};
use crate::addr::{Hex, PhysRange, VirtAddr, hex_bytes};

/// What `info` shows; in JSON addresses are `"0x..."` strings and unknown values `null`.
#[derive(Debug, Serialize)]
pub struct Info {
    /// `uname -r`.
    pub release: Option<String>,
    /// `linux_banner`.
    pub banner: Option<String>,
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
    /// The task it runs.
    pub current: Hex,
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
            current: Hex(cpu.current.raw()),
        };
        // Nothing is told of a task without types, and symbols may cost thousands of requests.
        let init_task = kernel.types.as_ref().and_then(|_| kernel.init_task("info").ok());
        Self {
            release: map.release.clone(),
            banner: map.banner.clone(),
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
            cpus: percpu::cpus(kernel).map(|cpus| cpus.into_iter().map(cpu).collect()).unwrap_or_default(),
            ram: map.ram.iter().map(|PhysRange { start, end }| [Hex(start.raw()), Hex(end.raw())]).collect(),
            evidence: map.evidence.clone(),
        }
    }
}
