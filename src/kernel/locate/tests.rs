//! Locating kernels in synthetic memory: page tables, trampoline and banner as a booted kernel leaves them.

mod damaged;
mod ram;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::*;
use crate::{
    addr::LinkAddr,
    kernel::testing::Structs,
    link::LinkError,
    mem::{Fault, PhysWrite, ReadOp, sparse::Sparse, stats::Stats},
    symbols::{Symbol, SymbolKind, SymbolRef},
};

const RELEASE: &str = "6.1.0-test";
const LINK_TEXT: u64 = 0xffff_ffff_8100_0000;
const MIB2: u64 = 2 << 20;
const TABLE: u64 = 0x63;
const RO_TEXT: u64 = 0xe1;
const RW_TEXT: u64 = 0xe3;
const RO_DATA: u64 = 0xe1 | 1 << 63;
const RW_DATA: u64 = 0xe3 | 1 << 63;
const GIB_PAGE: u64 = 0xe3 | 1 << 63;

/// Offsets from `_text`.
const BANNER: u64 = MIB2 + 0x400;
const NOTES: u64 = MIB2 + 0x2000;
const NOTES_LEN: u64 = 36;
const ROOT: u64 = 2 * MIB2 + 0x1_0000;
const NOTE_POINTER: u64 = 2 * MIB2 + 0x3000;
const PAGE_OFFSET_BASE: u64 = MIB2 + 0x3000;
const IOMEM: u64 = 2 * MIB2 + 0x4000;

const BUILD_ID: [u8; 20] = [0xab; 20];

/// One kernel in memory.
#[derive(Clone, Copy)]
struct Layout {
    levels: Levels,
    slide: u64,
    text_phys: u64,
    /// Tables and VMCOREINFO from here on.
    heap: u64,
    trampoline: u64,
    release: &'static str,
    /// Whether `mark_rodata_ro()` was called.
    protected: bool,
}

impl Layout {
    const fn usual() -> Self {
        let (slide, text_phys) = (0x3100_0000, 0xb40_0000);
        let (heap, trampoline) = (0x3000_0000, 0x9_c000);
        Self { levels: Levels::Five, slide, text_phys, heap, trampoline, release: RELEASE, protected: true }
    }

    fn text(&self) -> u64 {
        LINK_TEXT + self.slide
    }

    fn page_offset(&self) -> u64 {
        match self.levels {
            Levels::Four => 0xffff_8d16_4000_0000,
            Levels::Five => 0xff39_4077_0000_0000,
        }
    }

    fn banner(&self) -> String {
        format!("Linux version {} (a@b) (gcc) #1 SMP Tue", self.release)
    }

    fn vmcoreinfo(&self) -> Vec<u8> {
        let phys_base = self.text_phys.wrapping_sub(self.text() - 0xffff_ffff_8000_0000);
        vmcoreinfo::note(&format!(
            "OSRELEASE={}\nSYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)={}\nNUMBER(pgtable_l5_enabled)={}\n\
             KERNELOFFSET={:x}\n",
            self.release,
            self.text() + ROOT,
            phys_base.cast_signed(),
            u8::from(self.levels == Levels::Five),
            self.slide
        ))
    }
}

struct Builder {
    mem: Sparse,
    next_table: u64,
    encryption_mask: u64,
}

impl Builder {
    fn new() -> Self {
        let ram = ["0x0-0xa0000", "0x100000-1G", "4G-6G"].map(|range| range.parse().unwrap());
        Self { mem: Sparse::new(ram), next_table: 0, encryption_mask: 0 }
    }

    fn put(&self, phys: u64, bytes: &[u8]) {
        self.mem.write(PhysAddr::new(phys), bytes).unwrap();
    }

    fn put_u64(&self, phys: u64, value: u64) {
        self.put(phys, &value.to_le_bytes());
    }

    fn u64(&self, phys: u64) -> u64 {
        self.mem.read_u64(PhysAddr::new(phys)).unwrap()
    }

    /// Maps the page of `1 << 9 * (leaf - 1)` pages at `virt` to what `entry` says.
    fn map(&mut self, root: u64, levels: Levels, virt: u64, leaf: u32, entry: u64) {
        let mut table = root;
        for level in (leaf + 1..=levels.count()).rev() {
            let at = table + (virt >> (12 + 9 * (level - 1)) & 511) * 8;
            if self.u64(at) == 0 {
                self.put_u64(at, self.next_table | TABLE | self.encryption_mask);
                self.next_table += 4096;
            }
            table = self.u64(at) & 0x000f_ffff_ffff_f000 & !self.encryption_mask;
        }
        self.put_u64(table + (virt >> (12 + 9 * (leaf - 1)) & 511) * 8, entry | self.encryption_mask);
    }

    /// Puts a booted kernel into memory.
    fn kernel(&mut self, layout: &Layout) {
        let Layout { levels, text_phys, heap, trampoline, .. } = *layout;
        let (text, root) = (layout.text(), text_phys + ROOT);
        self.next_table = heap + 0x1000;
        let rights = if layout.protected { [RO_TEXT, RO_DATA, RW_DATA] } else { [RW_TEXT; 3] };
        for (index, rights) in (0..).zip(rights) {
            let (virt, phys) = (text + index * MIB2, text_phys + index * MIB2);
            self.map(root, levels, virt, 2, phys | rights);
        }
        for gib in [0, 4, 5] {
            self.map(root, levels, layout.page_offset() + (gib << 30), 3, gib << 30 | GIB_PAGE);
        }
        self.put(text_phys + BANNER, format!("{}\n\0", layout.banner()).as_bytes());
        let mut notes = [4_u32, 20, 3].map(u32::to_le_bytes).concat();
        notes.extend(b"GNU\0");
        notes.extend(BUILD_ID);
        self.put(text_phys + NOTES, &notes);
        self.put(heap, &layout.vmcoreinfo());
        self.put_u64(text_phys + NOTE_POINTER, layout.page_offset() + heap);
        self.put_u64(text_phys + PAGE_OFFSET_BASE, layout.page_offset());
        for slot in 256..512 {
            self.put_u64(trampoline + slot * 8, self.u64(root + slot * 8));
        }
        self.put_u64(trampoline, 0xdc0_6063);
        self.header(layout, if levels == Levels::Five { 0x10b0 } else { 0xb0 });
    }

    fn header(&self, layout: &Layout, cr4: u64) {
        let header = layout.trampoline + 4096;
        self.put_u64(header, layout.text() + 0x70);
        self.put_u64(header + 8, 0x901);
        self.put_u64(header + 16, cr4 | u64::from(self.encryption_mask != 0) << 32);
    }

    fn wipe(&self, layout: &Layout) {
        self.put(layout.trampoline, &[0; 0x2000]);
    }
}

struct Symbols(HashMap<&'static str, u64>);

impl Symbols {
    fn new() -> Self {
        let offsets = [
            ("_text", 0),
            ("linux_banner", BANNER),
            ("__start_notes", NOTES),
            ("__stop_notes", NOTES + NOTES_LEN),
            ("init_top_pgt", ROOT),
            ("vmcoreinfo_note", NOTE_POINTER),
            ("page_offset_base", PAGE_OFFSET_BASE),
            ("iomem_resource", IOMEM),
        ];
        Self(offsets.into())
    }
}

impl SymbolTable for Symbols {
    fn table_name(&self) -> &str {
        "test"
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        let addr = LinkAddr::new(LINK_TEXT + self.0.get(name)?);
        Some(Symbol { name: name.to_owned(), addr, size: 8, kind: SymbolKind::Object })
    }

    fn containing(&self, _: LinkAddr) -> Option<Symbol> {
        None
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        None
    }

    fn for_each(&self, _: &mut dyn FnMut(SymbolRef<'_>)) {}
}

/// Records where reads go.
struct Watched {
    mem: Sparse,
    reads: Mutex<Vec<(u64, u64)>>,
}

impl PhysMem for Watched {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.extend(ops.iter().map(|op| (op.addr.raw(), op.addr.raw() + op.buf.len() as u64)));
        self.mem.read_batch(ops);
    }
}

struct Run {
    guard: Arc<Guard>,
    mem: Arc<Stats<Watched>>,
    found: Result<KernelMap, LocateError>,
}

impl Run {
    fn new(mem: Sparse, limits: Option<&[&str]>, hints: &Hints<'_>) -> Self {
        let limits = limits.map(|ranges| ranges.iter().map(|range| range.parse().unwrap()).collect());
        let limits = limits.map(|ranges: Vec<PhysRange>| Limits::Operator(ranges.into()));
        let mem = Arc::new(Stats::new(Watched { mem, reads: Mutex::default() }, 512));
        let guard = Arc::new(Guard::new(Arc::clone(&mem) as Arc<dyn PhysMem>, limits));
        let found = locate(&guard, hints);
        Self { guard, mem, found }
    }

    fn error(&self) -> String {
        self.found.as_ref().unwrap_err().to_string()
    }

    #[track_caller]
    fn check(&self, layout: &Layout) {
        let map = self.found.as_ref().unwrap();
        assert_eq!(map.text.raw(), layout.text());
        assert_eq!(map.text_phys.raw(), layout.text_phys);
        assert_eq!(map.phys_base, layout.text_phys.wrapping_sub(layout.text() - 0xffff_ffff_8000_0000));
        assert_eq!(map.slide, Some(layout.slide));
        assert_eq!(map.root.raw(), layout.text_phys + ROOT);
        assert_eq!(map.levels, layout.levels);
        assert_eq!(map.page_offset.map(VirtAddr::raw), Some(layout.page_offset()));
        assert_eq!(map.release.as_deref(), Some(layout.release));
        assert_eq!(map.banner, Some(layout.banner()));
        assert!(map.image.contains(map.text_phys, 3 * MIB2));
        let ram: Vec<String> = map.ram.iter().map(PhysRange::to_string).collect();
        assert_eq!(ram, ["0x0-0xa0000", "0x100000-0x40000000", "0x100000000-0x180000000"]);
    }
}

fn layouts() -> impl Iterator<Item = Layout> {
    let places = [(0, 0x100_0000), (0x3100_0000, 0xb40_0000), (0x37e0_0000, 0x1_4000_0000)];
    [Levels::Four, Levels::Five].into_iter().flat_map(move |levels| {
        places.map(|(slide, text_phys)| Layout { levels, slide, text_phys, ..Layout::usual() })
    })
}

fn with_vmlinux<'a>(symbols: &'a Symbols) -> Hints<'a> {
    Hints {
        symbols: Some(symbols),
        build_id: Some(&BUILD_ID),
        vmlinux_name: Some("vmlinux"),
        ..Hints::default()
    }
}

const ALL: &[&str] = &["0x0-0xa0000", "0x100000-1G", "4G-6G"];

#[test]
fn any_place_slide_and_depth_with_and_without_vmlinux() {
    let symbols = Symbols::new();
    for layout in layouts() {
        for (hints, wiped) in [
            (Hints::default(), false),
            (with_vmlinux(&symbols), false),
            (Hints::default(), true),
            (with_vmlinux(&symbols), true),
        ] {
            let mut builder = Builder::new();
            builder.kernel(&layout);
            if wiped {
                builder.wipe(&layout);
            }
            let run = Run::new(builder.mem, wiped.then_some(ALL), &hints);
            run.check(&layout);
            if !wiped && hints.symbols.is_some() {
                let counts = run.mem.counts();
                assert!(counts.requests <= 300 && counts.bytes <= 100 << 10, "{counts}");
            }
        }
    }
}

#[test]
fn a_kernel_that_has_not_protected_its_read_only_data_yet() {
    let symbols = Symbols::new();
    for layout in layouts().map(|layout| Layout { protected: false, ..layout }) {
        for (hints, wiped) in
            [(Hints::default(), false), (with_vmlinux(&symbols), false), (Hints::default(), true)]
        {
            let mut builder = Builder::new();
            builder.kernel(&layout);
            // A page of the image that was freed, and made read-only by its new owner.
            let freed = layout.text() + 3 * MIB2;
            builder.map(
                layout.text_phys + ROOT,
                layout.levels,
                freed,
                1,
                (layout.text_phys + 3 * MIB2) | RO_DATA,
            );
            if wiped {
                builder.wipe(&layout);
            }
            let run = Run::new(builder.mem, wiped.then_some(ALL), &hints);
            run.check(&layout);
            let map = run.found.as_ref().unwrap();
            assert_eq!((map.text_pages, map.rodata), (None, None), "nothing in the image is constant");
            let said = map.evidence.iter().find(|entry| entry.what == "rodata").unwrap();
            assert!(said.detail.starts_with(&format!("{:#x}: ", layout.text() + MIB2)), "{}", said.detail);
        }
    }
    let layout = Layout { protected: false, ..Layout::usual() };
    let mut builder = Builder::new();
    builder.kernel(&layout);
    builder.put(layout.text_phys + BANNER, &[0; 64]);
    let error = Run::new(builder.mem, None, &Hints::default()).error();
    assert!(error.contains("no linux_banner can be read, and no right in the page tables says"), "{error}");
}

#[test]
fn another_depth_that_also_maps_something_is_not_believed() {
    let layout = Layout { levels: Levels::Four, ..Layout::usual() };
    for header in [true, false] {
        let mut builder = Builder::new();
        builder.kernel(&layout);
        let root = layout.text_phys + ROOT;
        // Modules, 4 KiB pages with the PAT bit: with 5 levels the walk ends here, at a "2 MiB page".
        builder.map(root, Levels::Four, 0xffff_ffff_ffe0_0000 - MIB2, 1, 0x2000_0000 | RO_TEXT);
        let trap = VirtAddr::new(0xffff_ffff_8000_0000);
        let tables = crate::paging::runs::Tables {
            root: PhysAddr::new(root),
            levels: Levels::Five,
            encryption_mask: 0,
        };
        assert_eq!(image::Image::survey(&builder.mem, tables).unwrap().text, trap, "the trap is set");
        if !header {
            builder.header(&layout, 0);
        }
        Run::new(builder.mem, Some(ALL), &Hints::default()).check(&layout);
    }
}

#[test]
fn leftovers_of_a_previous_kernel_are_refused() {
    let old = Layout {
        text_phys: 0x400_0000,
        slide: 0x100_0000,
        heap: 0x2000_0000,
        trampoline: 0x9_0000,
        release: "5.10.0-old",
        ..Layout::usual()
    };
    let live = Layout::usual();
    let symbols = Symbols::new();

    let mut builder = Builder::new();
    builder.kernel(&old);
    builder.kernel(&live);
    // The old image's memory was given away: the tables are intact, the banner is not.
    builder.put(old.text_phys + BANNER, &[0; 64]);
    Run::new(builder.mem, None, &Hints::default()).check(&live);

    // Its banner reads like the live one's, its VMCOREINFO still says who it was.
    let mut builder = Builder::new();
    builder.kernel(&old);
    builder.kernel(&live);
    builder.put(old.text_phys + BANNER, format!("{}\n\0", live.banner()).as_bytes());
    Run::new(builder.mem, None, &with_vmlinux(&symbols)).check(&live);
}

#[test]
fn two_whole_kernels_are_a_question_for_the_operator() {
    let other = Layout { text_phys: 0x400_0000, heap: 0x2000_0000, trampoline: 0x9_0000, ..Layout::usual() };
    let live = Layout::usual();
    let mut builder = Builder::new();
    builder.kernel(&other);
    builder.kernel(&live);
    builder.put(other.text_phys + NOTES + 16, &[0xcd; 20]);
    let mem = Arc::new(builder.mem);
    let locate =
        |hints: &Hints<'_>| locate(&Arc::new(Guard::new(Arc::clone(&mem) as Arc<dyn PhysMem>, None)), hints);

    let error = locate(&Hints::default()).unwrap_err().to_string();
    assert!(error.contains("two kernels are in memory, seen from 0x90000 and 0x9c000"), "{error}");
    let map = locate(&with_vmlinux(&Symbols::new())).unwrap();
    assert_eq!(map.text_phys.raw(), live.text_phys, "the vmlinux's own build is the one meant");
}

#[test]
fn tables_that_lead_to_themselves_end_in_words() {
    for cr4 in [0xb0, 0x10b0, 0] {
        let layout = Layout::usual();
        let builder = Builder::new();
        for slot in 256..512 {
            builder.put_u64(layout.trampoline + slot * 8, layout.trampoline | TABLE);
        }
        builder.header(&layout, cr4);
        let run = Run::new(builder.mem, (cr4 == 0).then_some(ALL), &Hints::default());
        assert!(run.error().starts_with("no Linux kernel found (real-mode trampoline: 0x9c000 refused ("));
        // VMCOREINFO and page tables are searched for at one word per page each.
        let pages = if cr4 == 0 { 2 * (3 << 18) } else { 0 };
        assert!(run.mem.counts().requests < 20_000 + pages, "{}", run.mem.counts());
    }
}

#[test]
fn another_build_is_named_and_force_goes_on() {
    let layout = Layout::usual();
    let symbols = Symbols::new();
    let id = [0x11; 20];
    let hints = Hints { build_id: Some(&id), ..with_vmlinux(&symbols) };
    let machine = || {
        let mut builder = Builder::new();
        builder.kernel(&layout);
        builder.mem
    };
    let error = Run::new(machine(), None, &hints).error();
    assert!(error.starts_with(&format!("vmlinux has build id {}", "11".repeat(20))), "{error}");
    assert!(error.contains(RELEASE) && error.contains("--force"), "{error}");
    Run::new(machine(), None, &Hints { force: true, ..hints }).check(&layout);
}

#[test]
fn encryption_is_honoured_or_refused_in_words() {
    for bit in [47, 51] {
        let layout = Layout::usual();
        let mut builder = Builder::new();
        builder.encryption_mask = 1 << bit;
        builder.kernel(&layout);
        let mem = Arc::new(builder.mem);
        let locate =
            || locate(&Arc::new(Guard::new(Arc::clone(&mem) as Arc<dyn PhysMem>, None)), &Hints::default());
        let map = locate().unwrap();
        assert_eq!((map.text_phys.raw(), map.sme_mask), (layout.text_phys, 1 << bit));
        mem.write(PhysAddr::new(layout.text_phys + BANNER), &[0x5a; 64]).unwrap();
        let error = locate().unwrap_err().to_string();
        assert!(error.contains("encrypts its memory") && error.contains("mem_encrypt=off"), "{error}");
    }
}

/// Puts one of the tables of exported symbols at `table` and its names at `names`; returns the ends of both.
fn export(
    builder: &Builder,
    layout: &Layout,
    table: u64,
    names: u64,
    symbols: &[(String, u64)],
) -> (u64, u64) {
    let (mut entry, mut name) = (table, names);
    for (text, value) in symbols {
        let relative = |to: u64, from: u64| (to.wrapping_sub(from) as u32).to_le_bytes();
        let fields = [relative(*value, entry), relative(name, entry + 4), relative(names, entry + 8)];
        builder.put(layout.text_phys + entry, &fields.concat());
        builder.put(layout.text_phys + name, format!("{text}\0").as_bytes());
        entry += 12;
        name += text.len() as u64 + 1;
    }
    (entry, name)
}

#[test]
fn exported_symbols_stand_in_for_a_vmlinux() {
    const TABLE: u64 = MIB2 + 0x1_0000;
    const NAMES: u64 = MIB2 + 0x2_0000;
    const FUNCTION: u64 = 0x1000;
    let layout = Layout::usual();
    let mut builder = Builder::new();
    builder.kernel(&layout);
    let table = |prefix: &str, more: &[(&str, u64)]| {
        let mut symbols: Vec<(String, u64)> =
            (0..300).map(|index| (format!("{prefix}{index:03}"), 0x2000 + index * 16)).collect();
        symbols.extend(more.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        symbols.sort();
        symbols
    };
    let plain = table("sym", &[("page_offset_base", PAGE_OFFSET_BASE), ("up", 0x3000)]);
    let gpl = table("pm_sym", &[("paddr_vmcoreinfo_note", FUNCTION), ("vmalloc_base", PAGE_OFFSET_BASE)]);
    let (gpl_table, gpl_names) = export(&builder, &layout, TABLE, NAMES, &plain);
    let (_, end) = export(&builder, &layout, gpl_table, gpl_names, &gpl);
    let load = NOTE_POINTER.wrapping_sub(FUNCTION + 5 + 7) as u32;
    let code = [&[0x90; 5], &[0x48, 0x8b, 0x15][..], &load.to_le_bytes()].concat();
    builder.put(layout.text_phys + FUNCTION, &code);
    let mut notes = vec![0; NOTES_LEN as usize];
    builder.mem.read(PhysAddr::new(layout.text_phys + NOTES), &mut notes).unwrap();
    builder.put(layout.text_phys + end.next_multiple_of(8), &notes);

    let run = Run::new(builder.mem, None, &Hints::default());
    run.check(&layout);
    let map = run.found.as_ref().unwrap();
    assert_eq!(map.vmalloc_base, map.page_offset);
    assert_eq!(map.build_id.as_deref(), Some(&BUILD_ID[..]));
    assert_eq!(map.vmcoreinfo.as_ref().and_then(VmcoreInfo::release), Some(RELEASE));
    let method = |what| map.evidence.iter().find(|entry| entry.what == what).map(|entry| entry.method);
    assert_eq!(method("root"), Some("VMCOREINFO"));
    assert_eq!(method("page_offset_base"), Some("variable"));
}

#[test]
fn reads_stay_where_something_vouches_for_them() {
    let nothing = Run::new(Builder::new().mem, None, &Hints::default());
    assert!(nothing.error().contains("give --ram START-END"), "{}", nothing.error());
    let low = |&(start, end): &(u64, u64)| start >= 0x1000 && end <= 0xa_0000;
    assert!(nothing.mem.inner().reads.lock().unwrap().iter().all(low));

    let layout = Layout::usual();
    let mut builder = Builder::new();
    builder.kernel(&layout);
    let run = Run::new(builder.mem, None, &Hints::default());
    run.check(&layout);
    let inside = |range: (u64, u64), start: u64, len: u64| range.0 >= start && range.1 <= start + len;
    for &range in run.mem.inner().reads.lock().unwrap().iter() {
        let known = inside(range, 0x1000, 0x9_f000)
            || inside(range, layout.text_phys, 3 * MIB2)
            || inside(range, layout.heap, 0x2_0000);
        assert!(known, "{:#x}-{:#x}", range.0, range.1);
    }
    let outside = run.guard.read(PhysAddr::new(2 << 30), &mut [0; 8]).unwrap_err();
    assert!(matches!(outside.fault, Fault::Refused(_)), "{outside}");
    run.guard.read(PhysAddr::new(0x30_0000), &mut [0; 8]).unwrap();
}

#[test]
fn a_dead_link_is_not_a_missing_kernel() {
    struct Dead;
    impl PhysMem for Dead {
        fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
            for op in ops {
                let (addr, len) = (op.addr, op.buf.len());
                op.fail(Fault::Link(LinkError::Timeout { addr, len, attempts: 3 }));
            }
        }
    }
    let error = locate(&Arc::new(Guard::new(Arc::new(Dead), None)), &Hints::default()).unwrap_err();
    assert!(matches!(error, LocateError::LowMemory { .. }), "{error}");
}

#[test]
fn looking_for_another_boot_permits_nothing() {
    let mut builder = Builder::new();
    builder.kernel(&Layout::usual());
    let guard = Arc::new(Guard::new(Arc::new(builder.mem), None));
    guard.confine(&["1M-2M".parse().unwrap()]);
    assert_eq!(trampolines(&guard).unwrap().len(), 1);
    assert_eq!(guard.permitted(), ["1M-2M".parse().unwrap()]);
}
