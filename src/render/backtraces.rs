//! Backtraces as text.

use std::fmt;

use super::printable;
use crate::kernel::{
    bt::{Backtrace, Call, Which},
    registers::Registers,
    unwind::{FoundBy, StackKind},
};

/// Backtraces, a paragraph for each task.
///
/// # Errors
/// The writer's own.
pub fn backtraces(out: &mut dyn fmt::Write, tasks: &[Backtrace]) -> fmt::Result {
    for (at, task) in tasks.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        backtrace(out, task)?;
    }
    Ok(())
}

/// Why there is nothing to show.
#[must_use]
pub fn no_such_task(which: Which) -> String {
    match which {
        Which::Pid(pid) => format!("there is no thread {pid}: `ps`, with threads, lists them all"),
        Which::Cpu(cpu) => format!("there is no CPU {cpu} that runs: `nettlp-gdb info` lists them"),
        Which::All | Which::Cpus => "no task was found".to_owned(),
    }
}

fn backtrace(out: &mut dyn fmt::Write, task: &Backtrace) -> fmt::Result {
    let cpu = match task.cpu {
        Some(cpu) if task.on_cpu => format!("on CPU {cpu}"),
        Some(cpu) => format!("last on CPU {cpu}"),
        None => "CPU unknown".to_owned(),
    };
    writeln!(out, "pid {} {}, {}, {cpu}", task.pid, printable(&task.comm), task.state)?;
    if let Some(recovered) = &task.recovered {
        writeln!(out, "  {recovered}")?;
    }
    let mut number = 0;
    let mut stack = StackKind::Task;
    for call in &task.frames {
        if call.stack != stack {
            stack = call.stack;
            writeln!(out, "  <{}>", stack_name(stack))?;
        }
        frame(out, number, call)?;
        if !call.inlined {
            number += 1;
        }
    }
    if let Some(user) = &task.user {
        writeln!(out, "  <user mode, left by {}>", user.left_by)?;
        registers(out, &user.registers)?;
    }
    if let Some(reason) = &task.incomplete {
        writeln!(out, "  {}: {reason}", if task.frames.is_empty() { "no backtrace" } else { "ends here" })?;
    }
    Ok(())
}

fn frame(out: &mut dyn fmt::Write, number: usize, call: &Call) -> fmt::Result {
    let name = match (&call.function, call.offset) {
        (Some(function), Some(offset)) => format!("{}+{offset:#x}", printable(function)),
        (Some(function), None) => printable(function),
        (None, _) => "??".to_owned(),
    };
    let module = call.module.as_ref().map_or_else(String::new, |module| format!(" [{}]", printable(module)));
    let source = match (&call.file, call.line) {
        (Some(file), Some(line)) => format!(" at {}:{line}", printable(file)),
        (Some(file), None) => format!(" at {}", printable(file)),
        (None, _) => String::new(),
    };
    if call.inlined {
        return writeln!(out, "                           {name} (inlined){source}");
    }
    let found_by = match call.found_by {
        FoundBy::Orc => "",
        FoundBy::Registers => " (saved registers)",
        FoundBy::FramePointer => " (frame pointer)",
        FoundBy::PtRegs => " (interrupted here)",
        FoundBy::Scan => " (scan)",
    };
    writeln!(out, "  #{number:<3} {:#018x} {name}{module}{found_by}{source}", call.address)?;
    call.registers.as_ref().map_or(Ok(()), |saved| registers(out, saved))
}

fn registers(out: &mut dyn fmt::Write, registers: &Registers) -> fmt::Result {
    let known: Vec<String> =
        registers.known().map(|(name, value)| format!("{name:>8} {value:016x}")).collect();
    for row in known.chunks(4) {
        writeln!(out, "      {}", row.join(" "))?;
    }
    Ok(())
}

fn stack_name(stack: StackKind) -> &'static str {
    match stack {
        StackKind::Task => "task stack",
        StackKind::Irq => "interrupt stack",
        StackKind::Exception => "exception stack",
    }
}
