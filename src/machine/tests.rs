use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};

use super::*;
use crate::{
    addr::PhysAddr,
    mem::PhysMem,
    paging::{AddressSpace, Levels, Translation, VirtMem},
};

fn build(change: impl FnOnce(&mut Description)) -> Machine {
    let mut description = Description::demo();
    change(&mut description);
    Machine::build(&description).unwrap()
}

fn address_space(machine: &Machine, root: PhysAddr) -> AddressSpace {
    AddressSpace::new(machine.memory(), root, machine.truth().levels, 0)
}

/// As `/proc/.../page_tables` would letter it: `rwx`.
fn rights(translation: &Translation) -> String {
    let letter = |has: bool, letter: char| if has { letter } else { '-' };
    [
        letter(true, 'r'),
        letter(translation.writable, 'w'),
        letter(translation.executable, 'x'),
        letter(translation.user, 'u'),
    ]
    .iter()
    .collect()
}

#[test]
fn the_kernel_is_mapped_as_kernels_are() {
    for levels in [Levels::Four, Levels::Five] {
        let machine = build(|description| description.levels = levels);
        let truth = machine.truth();
        let space = address_space(&machine, truth.root);
        let symbol = |name| machine.symbol(name).unwrap();
        let seen = |addr| {
            let translation = space.translate(addr).unwrap();
            (translation.phys, translation.page_size, rights(&translation))
        };
        let in_image = |addr: VirtAddr| truth.text_phys.wrapping_add(addr.wrapping_offset_from(truth.text));
        let large = 2 << 20;
        assert_eq!(seen(symbol("schedule")), (in_image(symbol("schedule")), large, "r-x-".to_owned()));
        assert_eq!(
            seen(symbol("linux_banner")),
            (in_image(symbol("linux_banner")), large, "r---".to_owned())
        );
        assert_eq!(seen(symbol("init_task")), (in_image(symbol("init_task")), large, "rw--".to_owned()));
        let banner = truth.text_phys.wrapping_add(symbol("linux_banner").wrapping_offset_from(truth.text));
        let alias = truth.bases.page_offset.wrapping_add(banner.raw());
        assert_eq!(seen(alias), (banner, 2 << 20, "rw--".to_owned()));
        let high = truth.bases.page_offset.wrapping_add(0x1_4000_1234);
        assert_eq!(seen(high), (PhysAddr::new(0x1_4000_1234), 1 << 30, "rw--".to_owned()));
        let stack = truth.task(1).unwrap().stack;
        assert_eq!(space.translate(stack).unwrap().page_size, 4096);
        assert!(space.translate(stack.wrapping_add(16 << 10)).is_err(), "no guard page");
        assert!(space.translate(VirtAddr::new(0x40_0000)).is_err());
        assert!(space.translate(truth.text.wrapping_sub(1)).is_err());
    }
}

#[test]
fn processes_have_their_arguments_and_the_kernel() {
    let machine = Machine::demo().unwrap();
    let truth = machine.truth();
    let kernel = address_space(&machine, truth.root);
    let types: &dyn crate::types::TypeSource = machine.types();
    let pointer = |addr: VirtAddr, ty, member| {
        kernel.read_u64(addr.wrapping_add(types.field(ty, member).unwrap().offset)).unwrap()
    };
    for task in truth.tasks.iter().filter(|task| !task.kernel_thread) {
        let mm = VirtAddr::new(pointer(task.addr, "task_struct", "mm"));
        let root = PhysAddr::new(pointer(mm, "mm_struct", "pgd") - truth.bases.page_offset.raw());
        let own = address_space(&machine, root);
        let start = VirtAddr::new(pointer(mm, "mm_struct", "arg_start"));
        let end = VirtAddr::new(pointer(mm, "mm_struct", "arg_end"));
        let bytes = own.read_vec(start, end.wrapping_offset_from(start) as usize).unwrap();
        let cmdline: Vec<_> = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
        assert_eq!(cmdline, task.cmdline.iter().map(String::as_bytes).collect::<Vec<_>>());
        assert!(own.translate(start).unwrap().user);
        assert_eq!(own.translate(truth.text).unwrap(), kernel.translate(truth.text).unwrap());
        assert!(kernel.translate(start).is_err());
    }
}

#[test]
fn stacks_lead_from_the_scheduler_to_the_entry() {
    let machine = Machine::demo().unwrap();
    let space = address_space(&machine, machine.truth().root);
    for task in machine.truth().tasks.iter() {
        let Some(sp) = task.sp else { continue };
        // struct inactive_task_frame: bp and ret_addr come last.
        let (mut bp, mut pc) = (sp.wrapping_add(5 * 8), sp.wrapping_add(6 * 8));
        let mut path = Vec::new();
        while space.read_u64(pc).unwrap() != 0 {
            let (_, function) = machine
                .image
                .functions
                .iter()
                .map(|function| (machine.symbol(&function.name).unwrap(), function))
                .rfind(|(start, _)| start.raw() <= space.read_u64(pc).unwrap())
                .unwrap();
            path.insert(0, function.name.as_str());
            let frame = space.read_ptr(bp).unwrap();
            (bp, pc) = (frame, frame.wrapping_add(8));
        }
        assert_eq!(path, task.path, "{}", task.comm);
    }
}

#[test]
fn the_trampoline_is_as_the_kernel_leaves_it() {
    for (levels, la57) in [(Levels::Four, 0), (Levels::Five, 1 << 12)] {
        let machine = build(|description| description.levels = levels);
        let (memory, truth) = (machine.memory(), machine.truth());
        let base = truth.real_mode.unwrap();
        let slot = |index: u64| memory.read_u64(base.wrapping_add(0x4000 + index * 8)).unwrap();
        let live = |index: u64| memory.read_u64(truth.root.wrapping_add(index * 8)).unwrap();
        assert!((1..256).all(|index| slot(index) == 0));
        assert!((256..512).all(|index| slot(index) == live(index)));
        assert_eq!(slot(511) & 1, 1);
        assert!((256..512).any(|index| slot(index) == slot(0)), "slot 0 is the direct map");
        let header: Vec<_> =
            (0..3).map(|word| memory.read_u64(base.wrapping_add(0x5000 + word * 8)).unwrap()).collect();
        assert_eq!(header[0], machine.symbol("secondary_startup_64").unwrap().raw());
        assert_eq!(header[1] & 1 << 10, 0, "LMA is clear");
        assert_eq!(header[2] & 1 << 12, la57);
        let mut signature = [0; 4];
        memory.read(base.wrapping_add(0x6260), &mut signature).unwrap();
        assert_eq!(signature, [0x82, 0x2c, 0xa2, 0x65]);
    }
}

#[test]
fn the_vmlinux_has_the_segments_of_its_time() {
    for (percpu, loads) in [(PerCpu::ZeroBased, 4), (PerCpu::Ordinary, 2)] {
        let machine = build(|description| description.percpu = percpu);
        let bytes = machine.vmlinux().unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        assert_eq!(file.kind(), object::ObjectKind::Executable);
        assert_eq!(file.build_id().unwrap(), Some(machine.truth().build_id.as_slice()));
        let segments: Vec<_> = file.segments().collect();
        assert_eq!(segments.len(), loads);
        assert_eq!(segments[0].address(), 0xffff_ffff_8100_0000);
        assert_eq!(segments.iter().any(|segment| segment.address() == 0), percpu == PerCpu::ZeroBased);
        for section in file.sections() {
            let inside = |segment: &object::Segment<'_, '_>| {
                segment.address() <= section.address()
                    && section.address() + section.size() <= segment.address() + segment.size()
            };
            assert!(section.address() == 0 || segments.iter().any(inside), "{}", section.name().unwrap());
        }
        let slide = machine.truth().slide;
        for symbol in file.symbols().filter(|symbol| symbol.address() != 0) {
            let running = machine.symbol(symbol.name().unwrap()).unwrap().raw();
            let moved = if symbol.address() < link::TEXT.raw() { 0 } else { slide };
            assert_eq!(running, symbol.address() + moved);
        }
    }
}

#[test]
fn the_vmlinux_holds_the_bytes_that_were_loaded() {
    let machine = Machine::demo().unwrap();
    let bytes = machine.vmlinux().unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let space = address_space(&machine, machine.truth().root);
    for name in [".text", ".notes"] {
        let section = file.section_by_name(name).unwrap();
        let addr = VirtAddr::new(section.address() + machine.truth().slide);
        let loaded = space.read_vec(addr, section.size() as usize).unwrap();
        assert_eq!(section.data().unwrap(), loaded, "{name}");
    }
}

fn refusal(change: impl FnOnce(&mut Description)) -> String {
    let mut description = Description::minimal();
    change(&mut description);
    Machine::build(&description).unwrap_err().to_string()
}

#[test]
fn impossible_machines_are_refused_in_words() {
    assert!(refusal(|d| d.slide = 0x1000).ends_with("with a slide of 0x1000"));
    assert!(refusal(|d| d.slide = 0x4000_0000).ends_with("with a slide of 0x40000000"));
    assert!(refusal(|d| d.text_phys = PhysAddr::new(0x8000_0000)).contains("no place for the image"));
    assert_eq!(refusal(|d| d.cpus.clear()), "no such machine: between 1 and 64 processors");
    assert_eq!(refusal(|d| d.cpus[0] = 77), "no such machine: processor 0 runs pid 77, which does not exist");
    assert_eq!(refusal(|d| d.tasks[0].parent = 5), "no such machine: pid 1 has no parent 5");
    assert_eq!(
        refusal(|d| d.log[0].text = "x".repeat(9000)),
        "no such machine: a message too long for the log buffer"
    );
    let small = |d: &mut Description| d.ram[1] = "0x100000-0x1440000".parse().unwrap();
    assert!(refusal(small).contains("do not fit what is left of"));
    assert!(refusal(|d| d.sources = vec![("empty.c", "")]).contains("no complete `struct task_struct`"));
}

#[test]
fn builds_differ_by_their_build_id() {
    let ids: Vec<_> = [PerCpu::ZeroBased, PerCpu::Ordinary]
        .map(|percpu| build(|description| description.percpu = percpu).truth().build_id)
        .into();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0], Machine::demo().unwrap().truth().build_id);
}
