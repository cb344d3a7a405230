//! The RAM map: whose word counts, and what is no RAM.

use super::*;

/// A resource tree below `iomem_resource`: (start, end, name), then where the last one's sibling pointer goes.
fn resources(builder: &Builder, layout: &Layout, list: &[(u64, u64, &str)], last: u64) {
    let node = |index: u64| layout.heap + 0x1_0000 + index * 0x100;
    let virt = |phys: u64| phys + layout.page_offset();
    builder.put_u64(layout.text_phys + IOMEM + 56, virt(node(0)));
    for (index, (start, end, name)) in (0..).zip(list) {
        let at = node(index);
        let next = if index + 1 == list.len() as u64 { last } else { virt(node(index + 1)) };
        builder.put(at + 0x80, format!("{name}\0").as_bytes());
        let parent = layout.text() + IOMEM;
        for (offset, value) in [(0, *start), (8, *end), (16, virt(at + 0x80)), (40, parent), (48, next)] {
            builder.put_u64(at + offset, value);
        }
    }
}

#[test]
fn the_kernels_own_resources_are_the_ram_map() {
    let members = ["start", "end", "name", "parent", "sibling", "child"];
    let members: Vec<_> =
        members.into_iter().zip([0, 8, 16, 40, 48, 56]).map(|(name, at)| (name, at, 8)).collect();
    let typed = Structs::new().add("resource", 64, &members);
    let untyped = Structs::new();
    let layout = Layout::usual();
    let symbols = Symbols::new();
    let list = [
        (0, 0xfff, "Reserved"),
        (0x1000, 0x9_fbff, "System RAM"),
        (0x10_0000, 0x3fff_ffff, "System RAM"),
        (0x8000_0000, 0xffff_ffff, "PCI Bus 0000:00"),
    ];
    for types in [&typed, &untyped] {
        let hints = Hints { types: Some(types), ..with_vmlinux(&symbols) };
        let located = |list: &[(u64, u64, &str)], last: u64, damage: &[(u64, u64)]| {
            let mut builder = Builder::new();
            builder.kernel(&layout);
            resources(&builder, &layout, list, last);
            damage.iter().for_each(|(at, value)| builder.put_u64(*at, *value));
            let map = Run::new(builder.mem, None, &hints).found.unwrap();
            let source = map.evidence.iter().find(|entry| entry.what == "ram").unwrap().method;
            (source, map.ram.iter().map(PhysRange::to_string).collect::<Vec<_>>())
        };
        let own = vec!["0x1000-0x9fc00".to_owned(), "0x100000-0x40000000".to_owned()];
        assert_eq!(located(&list, 0, &[]), ("iomem_resource", own));
        let circle = layout.page_offset() + layout.heap + 0x1_0000;
        assert_eq!(located(&list, circle, &[]).0, "direct map", "siblings in a circle");
        assert_eq!(located(&list[..2], 0, &[]).0, "direct map", "a map without the kernel's own memory");
        let parent = layout.heap + 0x1_0200 + 40;
        assert_eq!(located(&list, 0, &[(parent, 0)]).0, "direct map", "a resource that is not of this tree");
    }
}

/// What `pci_p2pdma_add_resource()` puts there, uncached since 5.8.
#[test]
fn device_memory_in_the_direct_map_is_not_ram() {
    let layout = Layout::usual();
    let mut builder = Builder::new();
    builder.kernel(&layout);
    let root = layout.text_phys + ROOT;
    for (gib, caching) in [(6, 0), (64, 0x18), (65, 0x10), (66, 0x8)] {
        let entry = gib << 30 | GIB_PAGE | caching;
        builder.map(root, layout.levels, layout.page_offset() + (gib << 30), 3, entry);
    }
    let run = Run::new(builder.mem, None, &Hints::default());
    let ram: Vec<String> = run.found.as_ref().unwrap().ram.iter().map(PhysRange::to_string).collect();
    assert_eq!(ram, ["0x0-0xa0000", "0x100000-0x40000000", "0x100000000-0x1c0000000"]);
    let error = run.guard.read(PhysAddr::new(64 << 30), &mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("not known to be RAM"), "{error}");
}
