//! One process as a whole: what `ps`, `/proc/PID/status` and `/proc/PID/stat` say of it, its parent and children, and
//! where it stands in the tree of files.

use super::{
    Kernel, KernelError, open_file,
    path::{self, Place},
    structure::{Structure, present},
    task::{self, Details, Scope, Task, TaskList, Tasks},
};
use crate::{
    addr::VirtAddr,
    types::{Field, TypeError, TypeSource},
};

/// A process or thread.
#[derive(Debug, serde::Serialize)]
pub struct Process {
    /// What its own structure says.
    #[serde(flatten)]
    pub task: Task,
    /// What a full listing adds; no arguments where the operator lets none be looked at.
    #[serde(flatten)]
    pub details: Details,
    /// Real, effective, saved and file-system user ids, in the initial namespace.
    pub uids: Option<[u32; 4]>,
    /// The same of groups.
    pub gids: Option<[u32; 4]>,
    /// Time its threads spent on CPUs, those that have ended included, in nanoseconds.
    pub cpu_nsec: Option<u64>,
    /// Of that in user mode, as far as the kernel's ticks tell, in nanoseconds.
    pub user_nsec: Option<u64>,
    /// And in the kernel.
    pub system_nsec: Option<u64>,
    /// Thread ids of the process, ascending.
    pub thread_ids: Vec<i32>,
    /// Pids of the processes it is the parent of, ascending.
    pub children: Vec<i32>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Its root directory.
    pub root: Option<String>,
    /// The file it executes; none of a kernel thread.
    pub exe: Option<String>,
    /// Set when the list of tasks is not complete: threads and children may be missing, and the times of threads.
    #[serde(skip)]
    pub torn: Option<KernelError>,
}

/// Everything known of `task` and the process it is of. What cannot be read is unknown (`None`).
///
/// # Errors
/// [`KernelError`] when there are no types or no tasks can be listed.
pub fn read(kernel: &Kernel, task: &Task) -> Result<Process, KernelError> {
    let types = kernel.types("a process")?;
    let details = task::details(kernel, std::slice::from_ref(task))?.pop().unwrap_or_default();
    let TaskList { tasks: all, torn } = Tasks::resolve(kernel)?.list(kernel, Scope::Threads)?;
    let leads = |one: &&Task| one.tgid.is_none_or(|tgid| tgid == one.pid);
    let tgid = task.tgid.unwrap_or(task.pid);
    let mut threads: Vec<&Task> = all.iter().filter(|one| one.tgid == Some(tgid)).collect();
    threads.sort_unstable_by_key(|one| one.pid);
    // The first task is its own parent.
    let is_child = |one: &&Task| one.ppid == Some(tgid) && one.pid != tgid;
    let mut children: Vec<i32> = all.iter().filter(leads).filter(is_child).map(|one| one.pid).collect();
    children.sort_unstable();

    let layout = Layout::resolve(types)?;
    let addrs: Vec<VirtAddr> = threads.iter().map(|thread| thread.addr).collect();
    let times = layout.times(kernel, &addrs);
    let [cpu_nsec, user_nsec, system_nsec] = times.map_or([None; 3], |times| times.map(Some));
    let own = kernel.memory.read_vec(task.addr, layout.bytes).unwrap_or_default();
    let ids = layout.ids(kernel, &own);
    let [cwd, root, exe] = layout.places(kernel, &own)?;
    Ok(Process {
        task: task.clone(),
        details,
        uids: ids.map(|ids| ids[0]),
        gids: ids.map(|ids| ids[1]),
        cpu_nsec,
        user_nsec,
        system_nsec,
        thread_ids: threads.iter().map(|thread| thread.pid).collect(),
        children,
        cwd,
        root,
        exe,
        torn,
    })
}

/// Times spent: on CPUs, in user mode, in the kernel.
struct Times {
    bytes: usize,
    run: Field<u64>,
    user: Field<u64>,
    system: Field<u64>,
}

impl Times {
    fn resolve(types: &dyn TypeSource, of: &'static str, run: &str) -> Result<Self, TypeError> {
        let mut structure = Structure::new(types, of);
        Ok(Self {
            run: structure.field(&[run])?,
            user: structure.field(&["utime"])?,
            system: structure.field(&["stime"])?,
            bytes: structure.bytes()?,
        })
    }

    fn get(&self, bytes: &[u8]) -> Option<[u64; 3]> {
        Some([self.run.get(bytes)?, self.user.get(bytes)?, self.system.get(bytes)?])
    }
}

struct Layout {
    bytes: usize,
    cred: Field<VirtAddr>,
    fs: Option<Field<VirtAddr>>,
    flags: Option<Field<u32>>,
    mm: Field<VirtAddr>,
    signal: Field<VirtAddr>,
    /// Of a thread that runs, and of those that have ended.
    times: Option<(Times, Times)>,
    cred_bytes: usize,
    ids: [[Field<u32>; 4]; 2],
    fs_bytes: usize,
    directories: Option<[[Field<VirtAddr>; 2]; 2]>,
    exe: Option<u64>,
}

impl Layout {
    fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut task = Structure::new(types, "task_struct");
        let mut cred = Structure::new(types, "cred");
        let mut fs = Structure::new(types, "fs_struct");
        let of_thread = Times::resolve(types, "task_struct", "se.sum_exec_runtime");
        let of_ended = Times::resolve(types, "signal_struct", "sum_sched_runtime");
        let mut four = |kind: &str| -> Result<[Field<u32>; 4], TypeError> {
            let mut id = |prefix: &str| cred.field(&[&format!("{prefix}{kind}.val")]);
            Ok([id("")?, id("e")?, id("s")?, id("fs")?])
        };
        let ids = [four("uid")?, four("gid")?];
        let mut directory = |name: &str| -> Result<Option<[Field<VirtAddr>; 2]>, TypeError> {
            let mount = fs.optional(&[&format!("{name}.mnt")])?;
            Ok(mount.zip(fs.optional(&[&format!("{name}.dentry")])?).map(|(mount, dentry)| [mount, dentry]))
        };
        let (pwd, root) = (directory("pwd")?, directory("root")?);
        Ok(Self {
            cred: task.field(&["real_cred", "cred"])?,
            fs: task.optional(&["fs"])?,
            flags: task.optional(&["flags"])?,
            mm: task.field(&["mm"])?,
            signal: task.field(&["signal"])?,
            bytes: task.bytes()?,
            times: present(of_thread)?.zip(present(of_ended)?),
            cred_bytes: cred.bytes()?,
            ids,
            directories: pwd.zip(root).map(|(pwd, root)| [pwd, root]),
            fs_bytes: present(fs.bytes())?.unwrap_or(0),
            exe: present(types.field("mm_struct", "exe_file"))?.map(|field| field.offset),
        })
    }

    /// Summed over the threads, and those that have ended; `None` when one cannot be read.
    fn times(&self, kernel: &Kernel, threads: &[VirtAddr]) -> Option<[u64; 3]> {
        let (of_thread, of_ended) = self.times.as_ref()?;
        let signal = threads.first()?.wrapping_add(self.signal.offset());
        let signal = kernel.memory.read_ptr(signal).ok()?;
        let mut sum = of_ended.get(&kernel.memory.read_vec(signal, of_ended.bytes).ok()?)?;
        for bytes in kernel.memory.read_vecs(threads, of_thread.bytes) {
            let own = of_thread.get(&bytes.ok()?)?;
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum = sum.wrapping_add(own));
        }
        Some(sum)
    }

    fn ids(&self, kernel: &Kernel, task: &[u8]) -> Option<[[u32; 4]; 2]> {
        let bytes = kernel.memory.read_vec(self.cred.get(task)?, self.cred_bytes).ok()?;
        let mut ids = [[0; 4]; 2];
        for (ids, fields) in ids.iter_mut().zip(&self.ids) {
            for (id, field) in ids.iter_mut().zip(fields) {
                *id = field.get(&bytes)?;
            }
        }
        Some(ids)
    }

    /// Working directory, root directory and executed file.
    fn places(&self, kernel: &Kernel, task: &[u8]) -> Result<[Option<String>; 3], KernelError> {
        let pointer = |field: &Field<VirtAddr>| field.get(task)?.non_null();
        let fs = self.fs.as_ref().and_then(pointer);
        let fs = fs.and_then(|fs| kernel.memory.read_vec(fs, self.fs_bytes).ok());
        let mut places = [None; 3];
        if let (Some(bytes), Some(directories)) = (fs, &self.directories) {
            for (place, [mount, dentry]) in places.iter_mut().zip(directories) {
                let found = mount.get(&bytes).zip(dentry.get(&bytes));
                *place = found.map(|(mount, dentry)| Place { mount, dentry });
            }
        }
        let flags = self.flags.as_ref().and_then(|flags| flags.get(task));
        let own = pointer(&self.mm).filter(|_| !flags.is_some_and(task::is_kernel_thread));
        if let (Some(mm), Some(exe)) = (own, self.exe)
            && let Ok(file) = kernel.memory.read_ptr(mm.wrapping_add(exe))
            && let Some(Ok(file)) = open_file::read(kernel, [file])?.remove(&file)
        {
            places[2] = Some(file.place);
        }
        let known: Vec<Place> = places.iter().flatten().copied().collect();
        let paths = if known.is_empty() { Vec::new() } else { path::paths(kernel, &known)? };
        let mut paths = paths.into_iter().map(Result::ok);
        Ok(places.map(|place| place.and_then(|_| paths.next().flatten())))
    }
}
