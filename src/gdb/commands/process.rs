//! Commands about one process.

use std::fmt;

use super::MonitorError;
use crate::{
    addr::{ParseError, VirtAddr, parse_address, parse_size},
    kernel::{Kernel, KernelError, cmdline, files, maps, mm, pid, process, task::Task, user},
    render,
    session::Session,
};

/// What `monitor read` prints at most.
const MAX_READ: u64 = 64 << 10;

fn task(session: &Session, text: &str) -> Result<Task, MonitorError> {
    let pid = text.parse().map_err(|_| MonitorError::Arguments)?;
    Ok(pid::find(&session.kernel, pid)?)
}

fn refused(error: ParseError) -> MonitorError {
    MonitorError::Failed(error.to_string())
}

/// An address of a process, where no symbol means anything.
pub(super) fn address(text: &str) -> Result<VirtAddr, MonitorError> {
    parse_address(text).map(VirtAddr::new).map_err(refused)
}

fn ended(torn: Option<KernelError>) -> Result<(), MonitorError> {
    torn.map_or(Ok(()), |error| Err(MonitorError::Incomplete(error)))
}

pub(super) fn maps(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let [pid] = args else { return Err(MonitorError::Arguments) };
    let (kernel, task) = (&session.kernel, task(session, pid)?);
    let found = maps::read(kernel, &mm::of(kernel, task.addr, task.pid)?)?;
    render::maps(out, &found.maps)?;
    ended(found.torn)
}

pub(super) fn files(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let [pid] = args else { return Err(MonitorError::Arguments) };
    let found = files::read(&session.kernel, task(session, pid)?.addr)?;
    render::files(out, &found.files)?;
    ended(found.torn)
}

pub(super) fn process(
    session: &Session,
    args: &[&str],
    out: &mut dyn fmt::Write,
) -> Result<(), MonitorError> {
    let [pid] = args else { return Err(MonitorError::Arguments) };
    let found = process::read(&session.kernel, &task(session, pid)?)?;
    render::process(out, &found)?;
    ended(found.torn)
}

pub(super) fn cmdline(
    session: &Session,
    args: &[&str],
    out: &mut dyn fmt::Write,
) -> Result<(), MonitorError> {
    strings(session, args, out, cmdline::cmdline)
}

pub(super) fn environ(
    session: &Session,
    args: &[&str],
    out: &mut dyn fmt::Write,
) -> Result<(), MonitorError> {
    strings(session, args, out, cmdline::environ)
}

fn strings(
    session: &Session,
    args: &[&str],
    out: &mut dyn fmt::Write,
    read: fn(&Kernel, &mm::Mm) -> Result<Vec<u8>, KernelError>,
) -> Result<(), MonitorError> {
    let [pid] = args else { return Err(MonitorError::Arguments) };
    let (kernel, task) = (&session.kernel, task(session, pid)?);
    let bytes = read(kernel, &mm::of(kernel, task.addr, task.pid)?)?;
    Ok(render::strings(out, &cmdline::strings(&bytes))?)
}

pub(super) fn read(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let [pid, addr, len] = args else { return Err(MonitorError::Arguments) };
    let (addr, len) = (address(addr)?, parse_size(len).map_err(refused)?);
    if !(1..=MAX_READ).contains(&len) {
        return Err(MonitorError::Failed(format!("a read takes 1 to {MAX_READ} bytes, not {len}")));
    }
    let (kernel, task) = (&session.kernel, task(session, pid)?);
    let mm = mm::of(kernel, task.addr, task.pid)?;
    let len = usize::try_from(len).unwrap_or(0);
    let bytes = user::read_vec(kernel, &mm, addr, len)?;
    Ok(render::hex_dump(out, addr.raw(), &bytes)?)
}

pub(super) fn translate(
    session: &Session,
    pid: &str,
    addr: VirtAddr,
    out: &mut dyn fmt::Write,
) -> Result<(), MonitorError> {
    let (kernel, task) = (&session.kernel, task(session, pid)?);
    let found = user::translate(kernel, &mm::of(kernel, task.addr, task.pid)?, addr)?;
    Ok(render::translation(out, addr, &found)?)
}
