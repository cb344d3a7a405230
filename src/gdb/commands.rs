//! The commands of `monitor` that ask the target: a line each in [`COMMANDS`], the text from [`crate::render`].

mod process;

use std::fmt;

use super::MonitorError;
use crate::{
    kernel::{
        bt::{self, Which},
        cross_view, dmesg,
        info::Info,
        module,
        task::{Scope, Tasks},
    },
    render,
    session::Session,
    symbols::place,
};

struct Command {
    /// The name, then its arguments; those in brackets may be left out.
    usage: &'static str,
    about: &'static str,
    run: fn(&Session, &[&str], &mut dyn fmt::Write) -> Result<(), MonitorError>,
}

const COMMANDS: &[Command] = &[
    Command { usage: "info", about: "which kernel runs there, where it is, how that was found", run: info },
    Command {
        usage: "ps [threads|cross-view]",
        about: "list processes, every thread, or tasks that hide",
        run: ps,
    },
    Command {
        usage: "bt [PID|cpus|all] [json]",
        about: "the functions a thread is in, or those the CPUs were in when the machine died",
        run: bt,
    },
    Command {
        usage: "process PID",
        about: "a process: whose, since when, its files and memory",
        run: process::process,
    },
    Command { usage: "maps PID", about: "list the mappings of a process", run: process::maps },
    Command { usage: "files PID", about: "list the open files of a process", run: process::files },
    Command { usage: "cmdline PID", about: "print the arguments of a process", run: process::cmdline },
    Command { usage: "environ PID", about: "print the environment of a process", run: process::environ },
    Command {
        usage: "read PID ADDR LEN",
        about: "print memory of a process, or say why it is not there",
        run: process::read,
    },
    Command { usage: "dmesg [LINES]", about: "print the kernel log, or its last messages", run: dmesg },
    Command { usage: "modules", about: "list loaded modules", run: modules },
    Command {
        usage: "translate ADDR [PID]",
        about: "from a virtual address or symbol to a physical one; of a process with its pid",
        run: translate,
    },
    Command { usage: "stats", about: "what crossed the link so far, and for attaching", run: stats },
];

/// Runs `line` and prints what it says.
pub(super) fn run(session: &Session, line: &str, out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unknown = || MonitorError::Unknown(line.to_owned());
    let (name, args) = words.split_first().ok_or_else(unknown)?;
    let command = COMMANDS.iter().find(|command| command.name() == *name).ok_or_else(unknown)?;
    if !command.arity().contains(&args.len()) {
        return Err(MonitorError::Usage(command.usage));
    }
    match (command.run)(session, args, out) {
        Err(MonitorError::Arguments) => Err(MonitorError::Usage(command.usage)),
        outcome => outcome,
    }
}

/// The commands, for `help`.
pub(super) fn help() -> Vec<(&'static str, &'static str)> {
    COMMANDS.iter().map(|command| (command.usage, command.about)).collect()
}

impl Command {
    fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// How many arguments it takes.
    fn arity(&self) -> std::ops::RangeInclusive<usize> {
        let args = self.usage.split(' ').skip(1);
        args.clone().filter(|arg| !arg.starts_with('[')).count()..=args.count()
    }
}

fn info(session: &Session, _: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    Ok(render::info(out, &Info::of(&session.kernel))?)
}

fn ps(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let scope = match args {
        [] => Scope::Processes,
        ["threads"] => Scope::Threads,
        ["cross-view"] => {
            let found = cross_view::settled(&session.kernel, &|| session.refresh())?;
            render::cross_view(out, &found)?;
            let incomplete = found.incomplete.into_iter().next();
            return incomplete.map_or(Ok(()), |(_, error)| Err(MonitorError::Incomplete(error)));
        }
        _ => return Err(MonitorError::Arguments),
    };
    let list = Tasks::resolve(&session.kernel)?.list(&session.kernel, scope)?;
    render::tasks(out, &list.tasks)?;
    list.torn.map_or(Ok(()), |error| Err(MonitorError::Incomplete(error)))
}

fn bt(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let (of, json) = match args {
        [of @ .., "json"] => (of, true),
        _ => (args, false),
    };
    let which = match of {
        [] | ["cpus"] => Which::Cpus,
        ["all"] => Which::All,
        [pid] => Which::Pid(pid.parse().map_err(|_| MonitorError::Arguments)?),
        _ => return Err(MonitorError::Arguments),
    };
    // A program that asks has the lines itself.
    let lines = if json { None } else { session.lines() };
    let found = bt::read(&session.kernel, which, lines)?;
    if found.tasks.is_empty() && found.torn.is_none() {
        return Err(MonitorError::Failed(render::no_such_task(which)));
    }
    if json {
        for task in &found.tasks {
            let line =
                serde_json::to_string(task).map_err(|error| MonitorError::Failed(error.to_string()))?;
            writeln!(out, "{line}")?;
        }
    } else {
        render::backtraces(out, &found.tasks)?;
    }
    found.torn.map_or(Ok(()), |error| Err(MonitorError::Incomplete(error)))
}

fn dmesg(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let log = dmesg::read(&session.kernel)?;
    let all = log.records.len() + log.unlogged.len();
    let wanted = match args {
        [count] => count.parse().map_err(|_| MonitorError::Arguments)?,
        _ => all,
    };
    render::dmesg(out, log.messages().skip(all.saturating_sub(wanted)))?;
    log.loss().map_or(Ok(()), |loss| Err(MonitorError::Failed(loss)))
}

fn modules(session: &Session, _: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    Ok(render::modules(out, &module::list(&session.kernel)?)?)
}

fn translate(session: &Session, args: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    let [text, of @ ..] = args else { return Err(MonitorError::Arguments) };
    if let [pid] = of {
        return process::translate(session, pid, process::address(text)?, out);
    }
    let kernel = &session.kernel;
    let addr = place::find(kernel.symbols.as_ref(), text)
        .map_err(|error| MonitorError::Failed(error.to_string()))?;
    let found = kernel.memory.translate(addr).map_err(|error| MonitorError::Failed(error.to_string()))?;
    Ok(render::translation(out, addr, &found)?)
}

fn stats(session: &Session, _: &[&str], out: &mut dyn fmt::Write) -> Result<(), MonitorError> {
    Ok(writeln!(out, "{}", session.stats())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_counted_as_the_usage_says() {
        let arity = |usage| Command { usage, about: "", run: stats }.arity();
        assert_eq!(arity("stats"), 0..=0);
        assert_eq!(arity("dmesg [LINES]"), 0..=1);
        assert_eq!(arity("read PID ADDR LEN"), 3..=3);
    }
}
