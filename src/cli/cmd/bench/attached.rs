//! What a command costs on a host: attaching, the list of processes, the log; and the list as who reads one member at
//! a time gets it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

use super::{Args, child::Other, median, table::Row, transfer};
use crate::{
    addr::{PhysAddr, VirtAddr},
    kernel::{
        Kernel, dmesg,
        task::{Scope, Tasks},
    },
    link::{self, Client, Read},
    session::{Options, Session, Source},
};

/// Bounds the walk of one read at a time.
const MAX_TASKS: usize = 10_000;

/// A measurement: wall-clock and processor time, and batches that crossed the link.
struct Cost {
    time: Duration,
    cpu_ms: f64,
    batches: u64,
}

fn cpu_ms() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.map_or(f64::NAN, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1000.0
    })
}

/// What `work` costs on a host of which nothing is remembered.
fn cost<T>(session: &Session, work: impl FnOnce(&Kernel) -> anyhow::Result<T>) -> anyhow::Result<(T, Cost)> {
    session.refresh();
    let (before, cpu, start) = (session.counts().batches, cpu_ms(), Instant::now());
    let result = work(&session.kernel)?;
    let time = start.elapsed();
    Ok((result, Cost { time, cpu_ms: cpu_ms() - cpu, batches: session.counts().batches - before }))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn open(args: &Args, adapter: &Other, tags: u16) -> anyhow::Result<(Session, Duration)> {
    let config = link::Config { local: Some(adapter.local), tags, ..link::Config::new(adapter.ip) };
    let options = Options { vmlinux: args.vmlinux.clone(), ..Options::new(Source::Adapter(config)) };
    let start = Instant::now();
    let session = Session::open(options, &|_| ())?;
    Ok((session, start.elapsed()))
}

/// Where the members are that libtlp's process list reads, and where tasks are.
struct Members {
    init_task: PhysAddr,
    page_offset: VirtAddr,
    next: u64,
    /// Offset and size of comm, pid, state and parent.
    others: [(u64, u64); 4],
}

impl Members {
    fn resolve(kernel: &Kernel) -> anyhow::Result<Self> {
        let types = kernel.types("a walk")?;
        let place = |name| types.field("task_struct", name).map(|found| (found.offset, found.size));
        let state = place("__state").or_else(|_| place("state"))?;
        let map = &kernel.map;
        let in_image = kernel.init_task("a walk")?.wrapping_offset_from(map.text);
        Ok(Self {
            init_task: map.text_phys.wrapping_add(in_image),
            page_offset: map.page_offset.context("where the direct map starts is not known")?,
            next: place("tasks")?.0,
            others: [place("comm")?, place("pid")?, state, place("real_parent")?],
        })
    }

    /// Walks the list, one member in one read after the other, addresses computed and no page table looked at. Returns
    /// how many tasks there are.
    fn walk(&self, client: &Client) -> anyhow::Result<usize> {
        let read = |addr: PhysAddr, len: u64| {
            let mut bytes = [0; 16];
            let (buf, _) = bytes.split_at_mut((len as usize).min(16));
            let mut reads = [Read::new(addr, buf)];
            client.read_batch(&mut reads);
            let [read] = reads;
            read.result.map(|()| u64::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 8])))
        };
        let (mut task, mut seen) = (self.init_task, HashSet::new());
        while seen.insert(task) && seen.len() <= MAX_TASKS {
            for (offset, size) in self.others {
                read(task.wrapping_add(offset), size)?;
            }
            let next = VirtAddr::new(read(task.wrapping_add(self.next), 8)?);
            task = PhysAddr::new(next.wrapping_offset_from(self.page_offset)).wrapping_sub(self.next);
            if next.raw() >> 31 == 0x1_ffff_ffff {
                break; // Back in the image: init_task.
            }
        }
        Ok(seen.len())
    }
}

/// The rows of one latency.
pub(super) fn measure(args: &Args, latency: u64) -> anyhow::Result<Vec<Row>> {
    let adapter = Other::adapter(&args.image, latency)?;
    let [mut attach, mut attach_single, mut ps, mut walk, mut log, mut log_single, mut trip, mut cpu] =
        [const { Vec::new() }; 8];
    let (mut count, mut batches, mut attach_batches) = (0, 0, 0);
    for _ in 0..args.rounds {
        let (session, took) = open(args, &adapter, args.tags)?;
        attach.push(millis(took));
        attach_batches = session.attach_counts().batches;
        // Types and symbols are the file's or read once; they are not what a list costs.
        let tasks = Tasks::resolve(&session.kernel)?;
        dmesg::read(&session.kernel)?;
        tasks.list(&session.kernel, Scope::Processes)?;
        let (list, cost_of_list) = cost(&session, |kernel| Ok(tasks.list(kernel, Scope::Processes)?))?;
        (count, batches) = (list.tasks.len(), cost_of_list.batches);
        ps.push(millis(cost_of_list.time));
        cpu.push(cost_of_list.cpu_ms);
        log.push(millis(cost(&session, |kernel| Ok(dmesg::read(kernel)?))?.1.time));
        let members = Members::resolve(&session.kernel)?;
        drop((session, tasks));

        let client = transfer::client(&adapter, 1)?;
        let round_trip = |_| {
            let (start, mut word) = (Instant::now(), [0; 8]);
            client.read_batch(&mut [Read::new(members.init_task, &mut word)]);
            millis(start.elapsed())
        };
        trip.push(median((0..50).map(round_trip).collect()));
        let start = Instant::now();
        members.walk(&client)?;
        walk.push(millis(start.elapsed()));
        drop(client);

        let (session, took) = open(args, &adapter, 1)?;
        attach_single.push(millis(took));
        dmesg::read(&session.kernel)?;
        log_single.push(millis(cost(&session, |kernel| Ok(dmesg::read(kernel)?))?.1.time));
    }
    let (ps, trip, cpu) = (median(ps), median(trip), median(cpu));
    let note = format!(
        "{count} tasks in {batches} batches, {cpu:.1} ms of CPU; a round trip is {trip:.3} ms: {:.1} of them and 5 ms",
        (ps - 5.0).max(0.0) / trip
    );
    let one_tag = "one read at a time";
    let attach = Row::times(latency, "attach", median(attach), one_tag, median(attach_single));
    Ok(vec![
        Row { note: format!("{attach_batches} batches"), ..attach },
        Row { note, ..Row::times(latency, "ps, attached", ps, "one member at a time", median(walk)) },
        Row::times(latency, "dmesg, attached", median(log), one_tag, median(log_single)),
    ])
}
