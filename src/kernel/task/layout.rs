//! Where the members of `task_struct` are. What a kernel, or a layout written down by hand, does not have is absent;
//! damaged type information is an error whatever the member.

use std::ops::Range;

use crate::{
    addr::VirtAddr,
    kernel::structure::Structure,
    types::{Field, FieldInfo, TypeError, TypeSource, field::Scalar},
};

/// Most bytes of a `task_struct`; the largest have some ten thousand.
const MAX_TASK: u64 = 64 << 10;

/// Most bytes of a task's name; `TASK_COMM_LEN` is 16.
const MAX_COMM: u64 = 256;

/// Members of `task_struct`, resolved once.
pub(super) struct Layout {
    /// Bytes from the start of a task that hold all of these.
    pub(super) bytes: usize,
    /// Where in these bytes the members are, ascending; none is worth a read of its own between two of them.
    pub(super) spans: Vec<Range<usize>>,
    /// Likewise of the members that lead from task to task and name them: what a debugger's walk looks at.
    pub(super) walked: Vec<Range<usize>>,
    pub(super) pid: Field<i32>,
    pub(super) state: Field<u64>,
    pub(super) parent: Field<VirtAddr>,
    pub(super) comm: FieldInfo,
    pub(super) exit_state: Option<Field<u32>>,
    pub(super) tgid: Option<Field<i32>>,
    /// Absent on a uniprocessor kernel too.
    pub(super) cpu: Option<Field<u32>>,
    pub(super) flags: Option<Field<u32>>,
    pub(super) mm: Option<Field<VirtAddr>>,
    /// `tasks.next`, or what to say when the list of processes is asked for without it.
    pub(super) next: Result<Field<VirtAddr>, TypeError>,
    /// As `next`, for the lists of threads.
    pub(super) thread_lists: Result<ThreadLists, TypeError>,
}

/// What the list of a process' threads hangs by.
#[derive(Clone)]
pub(super) struct ThreadLists {
    /// `task_struct.signal`
    pub(super) signal: Field<VirtAddr>,
    /// `task_struct.thread_node.next`
    pub(super) next: Field<VirtAddr>,
    /// Offset of `signal_struct.thread_head`.
    pub(super) head: u64,
}

/// A thread that a list leads to, and the list's head, where it ends.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    pub(super) addr: VirtAddr,
    pub(super) head: VirtAddr,
}

impl ThreadLists {
    fn resolve(task: &mut Structure<'_>, types: &dyn TypeSource) -> Result<Self, TypeError> {
        Ok(Self {
            signal: task.field(&["signal"])?,
            next: task.field(&["thread_node.next"])?,
            head: types.field("signal_struct", "thread_head")?.offset,
        })
    }

    /// The head of the list that a task, whose members are in `bytes`, is on.
    pub(super) fn head(&self, bytes: &[u8]) -> Option<VirtAddr> {
        Some(self.signal.get(bytes)?.wrapping_add(self.head))
    }

    /// The thread after it on the list with that `head`; none when the list ends.
    pub(super) fn after(&self, bytes: &[u8], head: VirtAddr) -> Option<Cursor> {
        let next = self.next.get(bytes)?;
        (next != head).then(|| Cursor { addr: next.wrapping_sub(self.next.offset()), head })
    }
}

impl Layout {
    /// # Errors
    /// [`TypeError`] naming the member without which there is nothing to show of a task.
    pub(super) fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let size = types.struct_size("task_struct")?;
        let mut task = Structure::new(types, "task_struct");
        let comm = task.member(&["comm"])?;
        if size > MAX_TASK || comm.size > MAX_COMM {
            let reason = format!("no task_struct has {size} bytes, {} of them its name", comm.size);
            return Err(TypeError::Unavailable { reason });
        }
        let mut layout = Self {
            bytes: 0,
            spans: Vec::new(),
            walked: Vec::new(),
            pid: task.field(&["pid"])?,
            // Named `__state` since 2f064a59a11f (5.14).
            state: task.field(&["__state", "state"])?,
            parent: task.field(&["real_parent"])?,
            comm,
            exit_state: task.optional(&["exit_state"])?,
            tgid: task.optional(&["tgid"])?,
            // Moved into `thread_info` by bcf9033e5449 (5.16).
            cpu: task.optional(&["thread_info.cpu", "cpu"])?,
            flags: task.optional(&["flags"])?,
            mm: task.optional(&["mm"])?,
            next: task.field(&["tasks.next"]),
            thread_lists: ThreadLists::resolve(&mut task, types),
        };
        layout.spans = spans(task.places().to_vec(), size);
        layout.walked = spans(layout.walked_places(), size);
        layout.bytes = layout.spans.last().map_or(0, |span| span.end);
        Ok(layout)
    }

    /// Offset and size of the links, the pid and the name.
    fn walked_places(&self) -> Vec<(u64, u64)> {
        let mut places = vec![(self.comm.offset, self.comm.size), (self.pid.offset(), i32::SIZE)];
        places.extend(self.next.iter().map(|next| (next.offset(), VirtAddr::SIZE)));
        if let Ok(ThreadLists { signal, next, .. }) = &self.thread_lists {
            places.extend([(signal.offset(), VirtAddr::SIZE), (next.offset(), VirtAddr::SIZE)]);
        }
        places
    }
}

/// Members that are less than a read apart are read together.
const APART: usize = 512;

/// The stretches of a structure of `size` bytes that hold the members at `places` (offset and size).
fn spans(mut places: Vec<(u64, u64)>, size: u64) -> Vec<Range<usize>> {
    places.sort_unstable();
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (offset, len) in places {
        let byte = |at: u64| usize::try_from(at.min(size)).unwrap_or(0);
        let (start, end) = (byte(offset), byte(offset.saturating_add(len)));
        match spans.last_mut() {
            Some(last) if start < last.end.saturating_add(APART) => last.end = last.end.max(end),
            _ => spans.push(start..end),
        }
    }
    spans
}
