//! Process lists from a layout that names few members, as one written down by hand does.

use std::sync::Arc;

use nettlp_gdb::{
    addr::VirtAddr,
    kernel::{
        Kernel, UserMemory, family,
        task::{self, Scope, Task, Tasks},
    },
    machine::{Description, Machine},
    mem::PhysWrite,
    paging::Levels,
    types::{Tag, Type, TypeError, TypeId, TypeSource},
};

use crate::recording::attach;

/// The members of `task_struct` that a walk over `children` shows and goes by.
const FEW: &[&str] = &["__state", "pid", "real_parent", "children", "sibling", "comm"];

/// Types whose `task_struct` has the members named, and no other struct is known.
struct Few {
    types: Arc<dyn TypeSource>,
    members: Vec<&'static str>,
}

impl TypeSource for Few {
    fn source_name(&self) -> &str {
        "few"
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        match name {
            "task_struct" | "list_head" => self.types.find(tag, name),
            _ => {
                Err(TypeError::NoType { source_name: "few".to_owned(), tag: "struct", name: name.to_owned() })
            }
        }
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        let mut found = self.types.get(id)?;
        if let Type::Aggregate(aggregate) = &mut found
            && aggregate.name.as_deref() == Some("task_struct")
        {
            aggregate
                .members
                .retain(|member| self.members.iter().any(|name| member.name.as_deref() == Some(name)));
        }
        Ok(found)
    }
}

/// The machine's kernel, known by `init_task` and the members of `task_struct` alone.
fn with_members(machine: &Machine, members: &[&'static str]) -> Kernel {
    let session = attach(machine);
    let kernel = &session.kernel;
    let mut map = kernel.map.clone();
    map.init_task = Some(machine.truth().tasks[0].addr);
    let types = Few { types: kernel.types.clone().unwrap(), members: members.to_vec() };
    Kernel {
        map,
        memory: Arc::clone(&kernel.memory),
        symbols: None,
        types: Some(Arc::new(types)),
        policy: UserMemory::All,
    }
}

#[test]
fn six_members_make_a_process_list() {
    let machine = Machine::demo().unwrap();
    let kernel = with_members(&machine, FEW);
    let (addrs, torn) = family::depth_first(&kernel).unwrap();
    assert!(torn.is_none(), "{torn:?}");
    let tasks = Tasks::resolve(&kernel).unwrap().at(&kernel, &addrs);
    let mut tasks: Vec<Task> = tasks.into_iter().map(|task| task.unwrap()).collect();
    tasks.sort_unstable_by_key(|task| task.pid);
    let leaders = machine.truth().tasks.iter().filter(|task| task.pid == task.tgid);
    let mut leaders: Vec<_> = leaders.collect();
    leaders.sort_unstable_by_key(|task| task.pid);
    assert_eq!(tasks.len(), leaders.len());
    for (task, truth) in tasks.iter().zip(leaders) {
        let state = if truth.state.letter() == 'Z' { 'X' } else { truth.state.letter() };
        assert_eq!((task.addr, task.pid as u32, &task.comm), (truth.addr, truth.pid, &truth.comm));
        assert_eq!((task.state, task.tgid, task.ppid), (state, None, None));
        assert_eq!((task.kernel_thread, task.cpu), (None, None));
    }
}

#[test]
fn what_a_layout_lacks_is_named() {
    let machine = Machine::demo().unwrap();
    let refused = |members: &[&'static str], scope| {
        let kernel = with_members(&machine, members);
        let outcome = Tasks::resolve(&kernel).and_then(|tasks| tasks.list(&kernel, scope));
        outcome.unwrap_err().to_string()
    };
    assert_eq!(refused(FEW, Scope::Processes), "`task_struct` has no member `tasks.next`");
    let with_list = [FEW, &["tasks"]].concat();
    assert_eq!(refused(&with_list, Scope::Threads), "`task_struct` has no member `signal`");
    for missing in ["pid", "real_parent", "comm"] {
        let members: Vec<_> = with_list.iter().copied().filter(|name| *name != missing).collect();
        assert_eq!(refused(&members, Scope::Processes), format!("`task_struct` has no member `{missing}`"));
    }
    let stateless: Vec<_> = with_list.iter().copied().filter(|name| *name != "__state").collect();
    assert_eq!(refused(&stateless, Scope::Processes), "`task_struct` has no member `__state` or `state`");

    let kernel = with_members(&machine, &["pid", "__state", "real_parent", "comm", "children"]);
    let said = family::depth_first(&kernel).unwrap_err().to_string();
    assert_eq!(said, "`task_struct` has no member `sibling`");
}

/// What the machine says of each task, threads behind their leader.
#[test]
fn details_are_the_machines() {
    for levels in [Levels::Four, Levels::Five] {
        let machine = Machine::build(&Description { levels, ..Description::demo() }).unwrap();
        let session = attach(&machine);
        let kernel = &session.kernel;
        let list = Tasks::resolve(kernel).unwrap().list(kernel, Scope::Threads).unwrap();
        let details = task::details(kernel, &list.tasks).unwrap();
        let truth = &machine.truth().tasks;
        assert_eq!(details.len(), truth.len());
        assert!(truth.iter().any(|task| task.uid != 0) && truth.iter().any(|task| !task.cmdline.is_empty()));
        for (found, truth) in details.iter().zip(truth) {
            let threads = machine.truth().tasks.iter().filter(|task| task.tgid == truth.tgid).count();
            assert_eq!((found.uid, found.start_nsec), (Some(truth.uid), Some(truth.start_time)));
            assert_eq!((found.threads, &found.started), (Some(threads as u32), &None), "{}", truth.comm);
            assert_eq!((found.cmdline.as_ref(), found.cmdline_cut), (Some(&truth.cmdline), false));
        }
    }
}

#[test]
fn arguments_that_are_not_there_are_unknown() {
    let machine = Machine::demo().unwrap();
    let session = attach(&machine);
    let kernel = &session.kernel;
    let list = Tasks::resolve(kernel).unwrap().list(kernel, Scope::Processes).unwrap();
    let index = list.tasks.iter().position(|task| task.kernel_thread == Some(false)).unwrap();
    let types = kernel.types.as_deref().unwrap();
    let offset = |structure, path| types.field(structure, path).unwrap().offset;
    let mm =
        kernel.memory.read_ptr(list.tasks[index].addr.wrapping_add(offset("task_struct", "mm"))).unwrap();
    let set = |addr: VirtAddr, value: u64| {
        let phys = kernel.memory.translate(addr).unwrap().phys;
        machine.memory().write(phys, &value.to_le_bytes()).unwrap();
        session.refresh();
    };
    let read = || task::details(kernel, &list.tasks).unwrap()[index].clone();
    let [start, end, pgd] =
        ["arg_start", "arg_end", "pgd"].map(|name| mm.wrapping_add(offset("mm_struct", name)));
    let first = kernel.memory.read_u64(start).unwrap();
    let whole = read();
    assert!(whole.cmdline.is_some());

    // Past what its tables map, the kernel's half, the hole between the halves, and backwards.
    for range in [
        [first, first + (1 << 20)],
        [0xffff_ffff_8100_0000, 0xffff_ffff_8100_0010],
        [1 << 60, (1 << 60) + 8],
        [first, first - 1],
        [u64::MAX - 1, u64::MAX],
    ] {
        set(start, range[0]);
        set(end, range[1]);
        let found = read();
        assert_eq!((&found.cmdline, found.cmdline_cut), (&None, false), "{range:x?}");
        assert_eq!((found.uid, found.threads), (whole.uid, whole.threads));
    }
    set(start, first);
    set(end, first);
    assert_eq!(read().cmdline, Some(Vec::new()));
    set(end, first + 8);
    for root in [0, 0xdead_0000_0000_0100, u64::MAX] {
        set(pgd, root);
        assert_eq!(read().cmdline, None);
    }
}

#[test]
fn a_structure_that_became_another_tasks_says_nothing() {
    let machine = Machine::demo().unwrap();
    let session = attach(&machine);
    let mut list = Tasks::resolve(&session.kernel).unwrap().list(&session.kernel, Scope::Processes).unwrap();
    list.tasks[1].pid += 1000;
    let details = task::details(&session.kernel, &list.tasks).unwrap();
    assert_eq!(details[1], task::Details::default());
    assert!(details[0].uid.is_some());
}
