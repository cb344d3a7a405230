//! `init_task` by what it is, for when no symbol says where: the first task, from which all others hang.
//!
//! Its name alone proves nothing: `swapper/0` stands in RAM wherever somebody printed it, and in copies of the task.
//! A place counts when the members around the name are those of the one task that is its own parent, whose address
//! is therefore known, when the page tables lead from that address back to the place, when both neighbours in the
//! list of tasks point to it, when the next one is its child, and when its stack ends with the kernel's mark.
//!
//! Needs types and memory. With the kernel's place known, its exports or its data are asked ([`find`]); without,
//! RAM is searched, and the task's own address leads to the page tables ([`sightings`]).
//! Source: `init/init_task.c`, `include/linux/sched.h`, `include/uapi/linux/magic.h`.

use crate::{
    addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr},
    kernel::{Confidence, Evidence},
    mem::{PhysMem, ReadOp},
    paging::{AddressSpace, Levels, VirtMem},
    types::{Field, FieldInfo, TypeSource, field::member_bytes},
};

use super::{
    Progress, Sighting, Sightings, Target,
    image::{KERNEL_SPACE, TEXT_ALIGN},
    image_tables::root_near,
    proof::{Names, Proof, read_known},
};

/// What both names of the first task begin with: `swapper/0`, on a uniprocessor kernel `swapper`.
const NAME: &[u8] = b"swapper";
const NAME_ENDS: [&[u8]; 2] = [b"/0\0", b"\0"];
/// `TASK_COMM_LEN`.
const COMM_LEN: usize = 16;

/// `STACK_END_MAGIC`, at the far end of every kernel stack.
const STACK_END: u32 = 0x57ac_6e9d;

/// No `task_struct` is larger.
const MAX_TASK: u64 = 64 << 10;

/// Places whose page tables are looked for: a host has some copies, memory may be full of them.
const MAX_CANDIDATES: usize = 16;

/// Bytes of RAM read at once.
const CHUNK: u64 = 1 << 20;

/// The members of `task_struct` that tell the first task from everything else.
struct Signature {
    bytes: usize,
    comm: FieldInfo,
    pid: Field<i32>,
    tgid: Field<i32>,
    state: Field<u64>,
    exit_state: Field<u64>,
    mm: Field<VirtAddr>,
    next: Field<VirtAddr>,
    prev: Field<VirtAddr>,
    /// `real_parent` and, where there are such, `parent` and `group_leader`: all lead to the task itself.
    own: Vec<Field<VirtAddr>>,
    stack: Option<Field<VirtAddr>>,
}

/// A place that looks like the first task, seen by itself.
struct Candidate {
    place: PhysAddr,
    /// Its own address.
    addr: VirtAddr,
    next: VirtAddr,
    prev: VirtAddr,
    stack: Option<VirtAddr>,
}

impl Signature {
    fn resolve(types: &dyn TypeSource) -> Option<Self> {
        let pointer = |name| Field::<VirtAddr>::resolve(types, "task_struct", name).ok();
        let state = |name| Field::<u64>::resolve(types, "task_struct", name).ok();
        // A stack that does not hold the `thread_info` ends with the mark, on x86-64 since 4.9.
        let in_task = types.field("task_struct", "thread_info").is_ok();
        let mut own = vec![pointer("real_parent")?];
        own.extend(["parent", "group_leader"].into_iter().filter_map(pointer));
        let size = types.struct_size("task_struct").ok().filter(|size| *size <= MAX_TASK)?;
        Some(Self {
            bytes: usize::try_from(size).ok()?,
            comm: types.field("task_struct", "comm").ok()?,
            pid: Field::resolve(types, "task_struct", "pid").ok()?,
            tgid: Field::resolve(types, "task_struct", "tgid").ok()?,
            // Named `__state` since 2f064a59a11f (5.14).
            state: state("__state").or_else(|| state("state"))?,
            exit_state: state("exit_state")?,
            mm: pointer("mm")?,
            next: pointer("tasks.next")?,
            prev: pointer("tasks.prev")?,
            own,
            stack: pointer("stack").filter(|_| in_task),
        })
    }

    /// What `bytes`, read at `place`, say of themselves; the error says what the first task would not have.
    fn look(&self, place: PhysAddr, bytes: &[u8]) -> Result<Candidate, &'static str> {
        let short = "the struct is cut off";
        let comm = member_bytes(bytes, &self.comm).ok_or(short)?;
        if !comm.strip_prefix(NAME).is_some_and(|rest| NAME_ENDS.iter().any(|end| rest.starts_with(end))) {
            return Err("its name is not swapper/0");
        }
        if self.pid.get(bytes) != Some(0) || self.tgid.get(bytes) != Some(0) {
            return Err("its pid is not 0");
        }
        if self.state.get(bytes) != Some(0) || self.exit_state.get(bytes) != Some(0) {
            return Err("an idle task can always run, this one cannot");
        }
        if self.mm.get(bytes) != Some(VirtAddr::NULL) {
            return Err("it has an address space");
        }
        let mut own = self.own.iter().map(|field| field.get(bytes));
        let addr = own.next().flatten().ok_or(short)?;
        if own.any(|other| other != Some(addr)) {
            return Err("it is not its own parent");
        }
        let in_image = (KERNEL_SPACE.0..=KERNEL_SPACE.1).contains(&addr);
        if !in_image || addr.offset_in(TEXT_ALIGN) != place.offset_in(TEXT_ALIGN) {
            return Err("its parent is another task");
        }
        let (next, prev) = (self.next.get(bytes).ok_or(short)?, self.prev.get(bytes).ok_or(short)?);
        let stack = self.stack.as_ref().and_then(|stack| stack.get(bytes));
        if [Some(next), Some(prev), stack].into_iter().flatten().any(|pointer| !pointer.is_upper_half()) {
            return Err("its pointers do not lead into the kernel");
        }
        Ok(Candidate { place, addr, next, prev, stack })
    }

    /// Puts a candidate to the proof through page tables.
    fn confirm(&self, space: &dyn VirtMem, seen: &Candidate) -> Result<(), &'static str> {
        if !leads_back(space, seen) {
            return Err("the page tables lead from its address to another place");
        }
        let node = seen.addr.wrapping_add(self.next.offset());
        let link = |to: &Field<VirtAddr>| to.offset().wrapping_sub(self.next.offset());
        let parent = self.own.first().map_or(0, Field::offset).wrapping_sub(self.next.offset());
        let wanted = [
            (Some(seen.next.wrapping_add(link(&self.prev))), 8),
            (Some(seen.prev), 8),
            (Some(seen.next.wrapping_add(parent)), 8),
            (seen.stack, 4),
        ];
        let read = read_known(space, &wanted);
        let mut pointers = read.iter().take(3).map(|bytes| {
            let word = bytes.as_deref()?.first_chunk()?;
            Some(VirtAddr::new(u64::from_le_bytes(*word)))
        });
        let mut next = || pointers.next().flatten();
        if seen.next == node || next() != Some(node) || next() != Some(node) {
            return Err("its neighbours in the list of tasks do not point back to it");
        }
        if next() != Some(seen.addr) {
            return Err("the task after it is not its child");
        }
        let mark = read.last().and_then(|bytes| bytes.as_deref()?.first_chunk().copied());
        if seen.stack.is_some() && mark.map(u32::from_le_bytes) != Some(STACK_END) {
            return Err("its stack does not end with the kernel's mark");
        }
        Ok(())
    }

    /// Reads what `place` holds and looks at it.
    fn look_at(&self, mem: &dyn PhysMem, place: PhysAddr) -> Result<Candidate, &'static str> {
        let mut bytes = vec![0; self.bytes];
        mem.read(place, &mut bytes).map_err(|_| "it cannot be read")?;
        self.look(place, &bytes)
    }
}

fn leads_back(space: &dyn VirtMem, seen: &Candidate) -> bool {
    space.translate(seen.addr).is_ok_and(|translation| translation.phys == seen.place)
}

/// The first task of a kernel whose place is known: where its exports say, or else somewhere in its data.
pub(super) fn find(
    target: &Target<'_>,
    proof: &Proof<'_>,
    types: Option<&dyn TypeSource>,
    evidence: &mut Vec<Evidence>,
) -> Option<VirtAddr> {
    let exported = match &proof.names {
        Names::Exports(exports) => exports.lookup("init_task"),
        _ => None,
    };
    let mut note = |addr: VirtAddr, method, detail: String, confidence| {
        let detail = format!("{addr}, {detail}");
        evidence.push(Evidence { what: "init_task", method, detail, confidence });
        addr
    };
    let Some(signature) = types.and_then(Signature::resolve) else {
        let addr = exported.filter(|addr| is_named(&*proof.space, *addr))?;
        return Some(note(addr, EXPORT, "whose name is swapper/0".to_owned(), Confidence::Found));
    };
    let check = |place| {
        let seen = signature.look_at(&*target.led, place)?;
        signature.confirm(&*proof.space, &seen).map(|()| seen.addr)
    };
    let what = "its own parent, its neighbours' neighbour";
    if let Some(Ok(addr)) = exported.and_then(|addr| proof.image.phys(addr)).map(check) {
        return Some(note(addr, EXPORT, what.to_owned(), Confidence::Proved));
    }
    let data: Vec<PhysRange> = proof.image.data_ranges().collect();
    let mut refused = 0;
    for place in named_places(target, &*target.led, &data, signature.comm.offset) {
        match check(place) {
            Ok(addr) => {
                let detail = format!("{what}; {refused} other places have its name");
                return Some(note(addr, "signature", detail, Confidence::Proved));
            }
            Err(reason) => {
                log::debug!("init_task at {place}: {reason}");
                refused += 1;
            }
        }
    }
    None
}

const EXPORT: &str = "export init_task";

/// Whether the first task's name stands where a `task_struct` at `addr` may have it, whatever its layout.
pub(super) fn is_named(space: &dyn VirtMem, addr: VirtAddr) -> bool {
    const STEP: u64 = 4 << 10;
    (0..3).map(|step| addr.wrapping_add(step * STEP)).any(|start| {
        let bytes = space.read_vec(start, STEP as usize + COMM_LEN).unwrap_or_default();
        names(&bytes).next().is_some()
    })
}

/// Where in `bytes` the first task's name stands.
fn names(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    memchr::memmem::find_iter(bytes, NAME).filter(|at| {
        let rest = bytes.get(at + NAME.len()..).unwrap_or_default();
        NAME_ENDS.iter().any(|end| rest.starts_with(end))
    })
}

/// Kernels by their first task anywhere in `ram`, with the top-level page table that maps it.
pub(super) fn sightings<'t>(
    target: &'t Target<'_>,
    ram: &'t [PhysRange],
) -> Result<Sightings<'t>, &'static str> {
    let types = target.hints.types.ok_or("it needs types: give --vmlinux")?;
    let signature = Signature::resolve(types).ok_or("the types given have no task_struct")?;
    let (mut names, mut left) = (0, MAX_CANDIDATES);
    let places = named_places(target, target.guard, ram, signature.comm.offset);
    let sightings = places.map_while(move |place| {
        if left == 0 {
            log::info!(
                "init_task: {MAX_CANDIDATES} places before {place} are like it, the others are not tried"
            );
            return None;
        }
        names += 1;
        let outcome = signature.look_at(target.guard, place).and_then(|seen| {
            left -= 1;
            let found = root_near(target, ram, place, |root| depth_of(target, &signature, &seen, root));
            found.ok_or("no page table near it maps it as a task")
        });
        Some(match outcome {
            Ok((root, levels)) => {
                log::info!("init_task at {place}, after {} other places with its name", names - 1);
                Some(Sighting { levels: Some(levels), ..Sighting::new("init_task", place, root) })
            }
            Err(reason) => {
                log::debug!("init_task at {place}: {reason}");
                None
            }
        })
    });
    Ok(Box::new(sightings.flatten()))
}

/// How deep the tables below `root` are, if the candidate proves through them.
fn depth_of(target: &Target<'_>, signature: &Signature, seen: &Candidate, root: PhysAddr) -> Option<Levels> {
    [Levels::Five, Levels::Four].into_iter().find(|levels| {
        let space = AddressSpace::new(target.tables.clone(), root, *levels, 0);
        signature.confirm(&space, seen).is_ok()
    })
}

/// Where a `task_struct` would begin whose `comm`, `comm_offset` bytes into it, has the first task's name.
fn named_places<'t>(
    target: &'t Target<'_>,
    mem: &'t dyn PhysMem,
    ranges: &[PhysRange],
    comm_offset: u64,
) -> impl Iterator<Item = PhysAddr> + use<'t> {
    let total: u64 = ranges.iter().map(PhysRange::len).sum();
    let mut done = 0;
    let chunks: Vec<PhysRange> = ranges.to_vec();
    let chunks = chunks.into_iter().flat_map(|range| {
        (0..range.len())
            .step_by(CHUNK as usize)
            .map(move |at| (range.start.wrapping_add(at), range.len() - at))
    });
    chunks.flat_map(move |(start, left)| {
        target.progress(Progress { step: "searching for init_task", done, total });
        done += left.min(CHUNK);
        let bytes = read_pages(mem, start, left.min(CHUNK + COMM_LEN as u64));
        let hits: Vec<PhysAddr> = names(&bytes)
            .filter(|at| *at < CHUNK as usize)
            .filter_map(|at| start.wrapping_add(at as u64).checked_sub(comm_offset))
            .filter(|place| place.offset_in(8) == 0)
            .collect();
        hits
    })
}

/// The bytes from `start` on, for searching: a page that cannot be read stays zero, and so holds no name.
fn read_pages(mem: &dyn PhysMem, start: PhysAddr, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let mut at = start;
    let mut ops: Vec<ReadOp<'_>> = Vec::new();
    for page in bytes.chunks_mut(PAGE_SIZE as usize) {
        let next = at.wrapping_add(page.len() as u64);
        ops.push(ReadOp::new(at, page));
        at = next;
    }
    mem.read_batch(&mut ops);
    for op in ops.iter_mut().filter(|op| op.result.is_err()) {
        op.buf.fill(0);
    }
    drop(ops);
    bytes
}
