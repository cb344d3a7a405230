//! `monitor`: what the front end answers itself; the rest is the [`Host`](crate::gdb::host::Host)'s.

use std::fmt::Write as _;

use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

use super::{
    GdbTarget, RebaseState,
    watch::{MAX_BYTES, MAX_RANGES},
};
use crate::gdb::host::MonitorError;

/// Bytes of text per console packet.
const CHUNK: usize = 1024;

/// What the front end itself answers, for `help`.
const OWN: &[(&str, &str)] = &[
    ("help", "this list"),
    ("info version", "the server's version"),
    ("refresh", "forget what is cached of the target, look at its tasks again"),
];

/// What a debugger can usually do and this one cannot; GDB itself only says that memory cannot be accessed.
const LIMITS: &str = "\
The server reads memory from outside and has no hold on the target's CPUs: registers are read-only, and step,
breakpoints and rwatch are refused. Memory is written only under serve --allow-write, in the ranges that the profile
names; of any other write GDB says \"Cannot access memory\". finish, until, advance and catch need breakpoints too.
Leave with detach or disconnect: there is nothing to kill. A file given after connecting is not moved to where the kernel
is: disconnect, and connect again.
add-symbol-file target:/modules loads the symbols of the modules that are loaded now.
Registers that memory does not tell are <unavailable>, an unknown program counter is 0xffffffffffffffff.
continue lets time pass until Ctrl-C, or until what a watchpoint (watch, awatch) watches has changed.
";

/// Where GDB has moved per-CPU symbols that are linked at 0.
const REBASED: &str = "\
__per_cpu_offset[] is shown less the KASLR slide, by which GDB has moved the per-CPU symbols too; $gs_base is as it is.
";

impl GdbTarget {
    fn run(&mut self, line: &str, out: &mut String) -> Result<(), MonitorError> {
        match line {
            "" | "help" => self.help(out),
            "info version" => {
                let _ = writeln!(out, "nettlp-gdb {}", env!("CARGO_PKG_VERSION"));
            }
            "refresh" => {
                self.refresh();
                let _ = writeln!(out, "{} threads", self.threads().0.iter().count());
            }
            other => self.host.monitor(other, out)?,
        }
        Ok(())
    }

    fn help(&self, out: &mut String) {
        let mut commands = [OWN, &self.host.monitor_help()].concat();
        commands.sort_unstable();
        for (usage, about) in commands {
            let _ = writeln!(out, "monitor {usage:<18} {about}");
        }
        out.push_str(LIMITS);
        if matches!(self.rebase, RebaseState::Asked(Some(_))) {
            out.push_str(REBASED);
        }
        let _ = writeln!(
            out,
            "Watched memory is read every {} us, at most {MAX_RANGES} ranges of {MAX_BYTES} bytes together: a change \
             between two readings\nthat is undone by the second is missed, and so is any change while GDB shows its \
             prompt.",
            self.watch_interval.as_micros()
        );
    }
}

impl MonitorCmd for GdbTarget {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Self::Error> {
        let line = String::from_utf8_lossy(cmd);
        let mut text = String::new();
        if let Err(error) = self.run(line.trim(), &mut text) {
            let _ = writeln!(text, "{error}");
        }
        for chunk in text.as_bytes().chunks(CHUNK) {
            out.write_raw(chunk);
            out.flush();
        }
        Ok(())
    }
}
