//! Where the members of `task_struct` are. What a kernel, or a layout written down by hand, does not have is absent;
//! damaged type information is an error whatever the member.

use crate::{
    addr::VirtAddr,
    types::{Field, FieldInfo, TypeError, TypeSource, field::Scalar},
};

/// Members of `task_struct`, resolved once.
pub(super) struct Layout {
    /// Bytes from the start of a task that hold all of these.
    pub(super) bytes: usize,
    pub(super) pid: Field<i32>,
    pub(super) state: Field<u64>,
    pub(super) parent: Field<VirtAddr>,
    pub(super) comm: FieldInfo,
    pub(super) exit_state: Option<Field<u32>>,
    pub(super) tgid: Option<Field<i32>>,
    /// Absent on a uniprocessor kernel too.
    pub(super) cpu: Option<Field<u32>>,
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

impl Layout {
    /// # Errors
    /// [`TypeError`] naming the member without which there is nothing to show of a task.
    pub(super) fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut members = Members { types, end: 0 };
        let comm = types.field("task_struct", "comm")?;
        members.end = comm.offset.saturating_add(comm.size);
        let mut layout = Self {
            bytes: 0,
            pid: members.find(&["pid"])?,
            // Named `__state` since 2f064a59a11f (5.14).
            state: members.find(&["__state", "state"])?,
            parent: members.find(&["real_parent"])?,
            comm,
            exit_state: present(members.find(&["exit_state"]))?,
            tgid: present(members.find(&["tgid"]))?,
            // Moved into `thread_info` by bcf9033e5449 (5.16).
            cpu: present(members.find(&["thread_info.cpu", "cpu"]))?,
            mm: present(members.find(&["mm"]))?,
            next: members.find(&["tasks.next"]),
            thread_lists: members.thread_lists(),
        };
        let size = types.struct_size("task_struct")?;
        layout.bytes = usize::try_from(members.end.min(size)).unwrap_or(0);
        Ok(layout)
    }
}

/// Resolves members and remembers where the last of them ends.
struct Members<'t> {
    types: &'t dyn TypeSource,
    end: u64,
}

impl Members<'_> {
    /// The first of `names` that `task_struct` has.
    fn find<T: Scalar>(&mut self, names: &[&str]) -> Result<Field<T>, TypeError> {
        for name in names {
            match present(Field::resolve(self.types, "task_struct", name))? {
                Some(field) => {
                    self.end = self.end.max(field.offset().saturating_add(T::SIZE));
                    return Ok(field);
                }
                None => continue,
            }
        }
        Err(TypeError::NoMember { container: "task_struct".to_owned(), member: names.join("` or `") })
    }

    fn thread_lists(&mut self) -> Result<ThreadLists, TypeError> {
        Ok(ThreadLists {
            signal: self.find(&["signal"])?,
            next: self.find(&["thread_node.next"])?,
            head: self.types.field("signal_struct", "thread_head")?.offset,
        })
    }
}

/// Absence is an answer, damage is not.
pub(super) fn present<T>(outcome: Result<T, TypeError>) -> Result<Option<T>, TypeError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(TypeError::NoMember { .. } | TypeError::NoType { .. }) => Ok(None),
        Err(damage) => Err(damage),
    }
}
