//! What a full listing says of a task beyond its own structure: whose it is, how many threads its process has, since
//! when it is there, and its arguments.
//!
//! All tasks are read side by side: their own members, then everything these point to, then user space. What the
//! layout lacks or memory does not yield is unknown (`None`) of that task alone.

use std::collections::HashMap;

use super::{Task, is_kernel_thread};
use crate::{
    addr::VirtAddr,
    kernel::{
        Kernel, KernelError, cmdline,
        structure::Structure,
        timekeeper,
        user::{self, UserRange},
    },
    types::{Field, TypeError, TypeSource, field::Scalar},
};

/// Arguments longer than this are cut.
const MAX_CMDLINE: u64 = 4096;

/// What a full listing adds to a [`Task`].
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Details {
    /// Real user id in the initial namespace.
    pub uid: Option<u32>,
    /// Threads of its process.
    pub threads: Option<u32>,
    /// When it was forked, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_nsec: Option<u64>,
    /// The same by the host's wall clock as it is set now (RFC 3339, UTC); `None` when that clock cannot be read.
    pub started: Option<String>,
    /// Its arguments, bytes that are not UTF-8 replaced; empty for what has no user space; `None` when they could not
    /// be read, such as a page that is not present.
    pub cmdline: Option<Vec<String>>,
    /// There is more in its arguments than was read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cmdline_cut: bool,
}

/// Reads the details of `tasks`, in their order.
///
/// # Errors
/// [`KernelError`] when there are no types, or damaged ones; what merely is not there is unknown.
pub fn details(kernel: &Kernel, tasks: &[Task]) -> Result<Vec<Details>, KernelError> {
    let layout = Layout::resolve(kernel.types("the details of tasks")?)?;
    let addrs: Vec<VirtAddr> = tasks.iter().map(|task| task.addr).collect();
    let own = fetch(kernel, &[(&addrs, layout.task.bytes()?)]);
    let mut pointers: Vec<Pointers> = Vec::with_capacity(tasks.len());
    for task in tasks {
        let bytes = own.get(&task.addr).map_or(&[][..], Vec::as_slice);
        pointers.push(layout.pointers(task, bytes));
    }
    let all = |pointer: fn(&Pointers) -> Option<VirtAddr>| -> Vec<VirtAddr> {
        pointers.iter().filter_map(pointer).filter_map(VirtAddr::non_null).collect()
    };
    let (creds, signals, mms) = (all(|of| of.cred), all(|of| of.signal), all(|of| of.mm));
    let shared = fetch(
        kernel,
        &[(&creds, layout.cred.bytes()?), (&signals, layout.signal.bytes()?), (&mms, layout.mm.bytes()?)],
    );
    let arguments = layout.arguments(kernel, &mms, &shared);
    let booted = timekeeper::booted(kernel);
    Ok(pointers.iter().map(|of| layout.details(of, &shared, &arguments, booted)).collect())
}

struct Layout<'t> {
    task: Structure<'t>,
    pid: Option<Field<i32>>,
    cred_of: Option<Field<VirtAddr>>,
    signal_of: Option<Field<VirtAddr>>,
    flags: Option<Field<u32>>,
    mm_of: Option<Field<VirtAddr>>,
    start: Option<Field<u64>>,
    cred: Structure<'t>,
    uid: Option<Field<u32>>,
    signal: Structure<'t>,
    threads: Option<Field<u32>>,
    mm: Structure<'t>,
    pgd: Option<Field<VirtAddr>>,
    arguments: [Option<Field<VirtAddr>>; 2],
    environment: [Option<Field<VirtAddr>>; 2],
}

/// What a task itself says.
#[derive(Default)]
struct Pointers {
    cred: Option<VirtAddr>,
    signal: Option<VirtAddr>,
    mm: Option<VirtAddr>,
    start: Option<u64>,
}

/// Where the arguments of an address space are.
struct Place {
    range: UserRange,
    /// There are more.
    cut: bool,
    /// Where they are if they were overwritten by one string.
    title: UserRange,
}

/// Arguments by `mm_struct`, and whether they were cut.
type Arguments = HashMap<VirtAddr, (Vec<String>, bool)>;

impl<'t> Layout<'t> {
    fn resolve(types: &'t dyn TypeSource) -> Result<Self, TypeError> {
        let [mut task, mut cred, mut signal, mut mm] =
            ["task_struct", "cred", "signal_struct", "mm_struct"].map(|name| Structure::new(types, name));
        Ok(Self {
            pid: task.optional(&["pid"])?,
            cred_of: task.optional(&["real_cred", "cred"])?,
            signal_of: task.optional(&["signal"])?,
            flags: task.optional(&["flags"])?,
            mm_of: task.optional(&["mm"])?,
            // Renamed by cf25e24db61c (5.5).
            start: task.optional(&["start_boottime", "real_start_time"])?,
            task,
            uid: cred.optional(&["uid.val"])?,
            cred,
            threads: signal.optional(&["nr_threads"])?,
            signal,
            pgd: mm.optional(&["pgd"])?,
            arguments: [mm.optional(&["arg_start"])?, mm.optional(&["arg_end"])?],
            environment: [mm.optional(&["env_start"])?, mm.optional(&["env_end"])?],
            mm,
        })
    }

    /// Nothing of a `task_struct` that has become another task's since it was listed.
    fn pointers(&self, task: &Task, bytes: &[u8]) -> Pointers {
        if value(&self.pid, bytes) != Some(task.pid) {
            return Pointers::default();
        }
        let borrows = value(&self.flags, bytes).is_some_and(is_kernel_thread);
        Pointers {
            cred: value(&self.cred_of, bytes),
            signal: value(&self.signal_of, bytes),
            mm: if borrows { Some(VirtAddr::NULL) } else { value(&self.mm_of, bytes) },
            start: value(&self.start, bytes),
        }
    }

    fn arguments(&self, kernel: &Kernel, mms: &[VirtAddr], shared: &HashMap<VirtAddr, Vec<u8>>) -> Arguments {
        let mut mms = mms.to_vec();
        mms.sort_unstable();
        mms.dedup();
        let mut found = Arguments::new();
        let places: Vec<(VirtAddr, Place)> =
            mms.into_iter().filter_map(|mm| Some((mm, self.place(shared.get(&mm)?)?))).collect();
        let (empty, places): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|(_, place)| place.range.len == 0);
        found.extend(empty.into_iter().map(|(mm, _)| (mm, (Vec::new(), false))));
        let mut titled = Vec::new();
        for ((mm, place), bytes) in read(kernel, places, |place| place.range) {
            if cmdline::is_title(&bytes) && !place.cut {
                titled.push((mm, place));
            } else {
                found.insert(mm, (cmdline::strings(&bytes), place.cut));
            }
        }
        for ((mm, _), bytes) in read(kernel, titled, |place| place.title) {
            found.insert(mm, (cmdline::strings(&cmdline::title(bytes)), false));
        }
        found
    }

    fn place(&self, mm: &[u8]) -> Option<Place> {
        let pgd = value(&self.pgd, mm)?;
        let ends = |[start, end]: &[Option<Field<VirtAddr>>; 2]| Some([value(start, mm)?, value(end, mm)?]);
        let range = |[start, end]: [VirtAddr; 2]| {
            let len = end.raw().checked_sub(start.raw())?;
            let kept = usize::try_from(len.min(MAX_CMDLINE)).ok()?;
            Some((UserRange { pgd, start, len: kept }, (kept as u64) < len))
        };
        let arguments = ends(&self.arguments)?;
        let (whole, cut) = range(arguments)?;
        let title = ends(&self.environment)
            .map_or(arguments, |environment| cmdline::title_range(arguments, environment));
        Some(Place { range: whole, cut, title: range(title)?.0 })
    }

    fn details(
        &self,
        of: &Pointers,
        shared: &HashMap<VirtAddr, Vec<u8>>,
        arguments: &Arguments,
        booted: Option<i64>,
    ) -> Details {
        let behind = |pointer: Option<VirtAddr>| shared.get(&pointer?);
        let (cmdline, cmdline_cut) = match of.mm {
            Some(VirtAddr::NULL) => (Some(Vec::new()), false),
            Some(mm) => arguments.get(&mm).map_or((None, false), |(args, cut)| (Some(args.clone()), *cut)),
            None => (None, false),
        };
        Details {
            uid: behind(of.cred).and_then(|bytes| value(&self.uid, bytes)),
            threads: behind(of.signal).and_then(|bytes| value(&self.threads, bytes)),
            start_nsec: of.start,
            started: booted.zip(of.start).and_then(|(booted, start)| wall(booted, start)),
            cmdline,
            cmdline_cut,
        }
    }
}

fn value<T: Scalar>(field: &Option<Field<T>>, bytes: &[u8]) -> Option<T> {
    field.as_ref()?.get(bytes)
}

fn wall(booted: i64, start: u64) -> Option<String> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(booted) + i128::from(start)).ok()?;
    Some(format!("{time:.0}"))
}

/// What could be read of `places`, side by side.
fn read(
    kernel: &Kernel,
    places: Vec<(VirtAddr, Place)>,
    range: fn(&Place) -> UserRange,
) -> impl Iterator<Item = ((VirtAddr, Place), Vec<u8>)> {
    let ranges: Vec<UserRange> = places.iter().map(|(_, place)| range(place)).collect();
    places.into_iter().zip(user::read(kernel, &ranges)).filter_map(|((mm, place), bytes)| match bytes {
        Ok(bytes) => Some(((mm, place), bytes)),
        Err(error) => {
            log::debug!("arguments of mm_struct {mm}: {error}");
            None
        }
    })
}

/// Structures, each once, as far as they could be read: addresses and lengths of several kinds in one batch.
fn fetch(kernel: &Kernel, kinds: &[(&[VirtAddr], usize)]) -> HashMap<VirtAddr, Vec<u8>> {
    let wanted = kinds.iter().flat_map(|(addrs, len)| addrs.iter().map(|addr| (*addr, *len)));
    let mut lengths: HashMap<VirtAddr, usize> = HashMap::new();
    for (addr, len) in wanted {
        let known = lengths.entry(addr).or_default();
        *known = len.max(*known);
    }
    let ranges: Vec<(VirtAddr, usize)> = lengths.into_iter().collect();
    let read = ranges.iter().zip(kernel.memory.read_ranges(&ranges));
    read.filter_map(|((addr, _), bytes)| Some((*addr, bytes.ok()?))).collect()
}
