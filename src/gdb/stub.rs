//! [`gdbstub`]'s state machine as a function: a packet in, framed replies out.
//!
//! Acknowledgements, checksums and the transport stay outside. A packet that `gdbstub` calls a fatal error
//! (it gives up its state machine on anything it cannot parse) costs the client an error reply, not its session:
//! a new machine takes over with the client's thread selected.

use std::convert::Infallible;

use gdbstub::{
    conn::Connection,
    stub::{DisconnectReason, GdbStub, MultiThreadStopReason, state_machine::GdbStubStateMachine},
};

use super::{
    packet::{self, PACKET_SIZE},
    target::{GdbTarget, Reason, Stop},
    tid::Tid,
};

/// Room for the framing around the largest packet.
const BUFFER: usize = PACKET_SIZE + 16;

type Machine = GdbStubStateMachine<'static, GdbTarget, Reply>;

/// Where `gdbstub` writes to.
#[derive(Default)]
struct Reply(Vec<u8>);

impl Connection for Reply {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<(), Infallible> {
        self.0.extend_from_slice(buf);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What the client expects now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The target is stopped: the next packet is the client's.
    Stopped,
    /// The target runs, as far as the client knows: it waits for a stop.
    Running,
    /// The client has said good-bye for good (`k`).
    Gone,
}

/// The protocol with one client.
pub(super) struct Stub {
    /// `None` only while a packet is being handled.
    machine: Option<Machine>,
    /// The last `Hg` packet that was accepted.
    selected: Option<Vec<u8>>,
}

impl Stub {
    /// A stub for a client that has just connected.
    ///
    /// # Errors
    /// A sentence, when `gdbstub` cannot be set up.
    pub(super) fn new(target: &mut GdbTarget) -> Result<Self, String> {
        let mut stub = Self { machine: None, selected: None };
        stub.restart(target)?;
        Ok(stub)
    }

    /// What the client expects now.
    #[must_use]
    pub(super) fn mode(&self) -> Mode {
        match &self.machine {
            Some(GdbStubStateMachine::Running(_)) => Mode::Running,
            Some(GdbStubStateMachine::Idle(_) | GdbStubStateMachine::CtrlCInterrupt(_)) => Mode::Stopped,
            Some(GdbStubStateMachine::Disconnected(_)) | None => Mode::Gone,
        }
    }

    /// The thread the client has selected last.
    #[must_use]
    pub(super) fn selected(&self) -> Option<Tid> {
        let digits = std::str::from_utf8(self.selected.as_deref()?.strip_prefix(b"Hg")?).ok()?;
        Tid::new(usize::from_str_radix(digits, 16).ok()?)
    }

    /// Handles a packet; returns the framed replies.
    ///
    /// # Errors
    /// A sentence, when the stub cannot go on.
    pub(super) fn packet(&mut self, target: &mut GdbTarget, body: &[u8]) -> Result<Vec<u8>, String> {
        match self.feed(target, body) {
            Ok(reply) => {
                if body.starts_with(b"Hg") && reply == packet::frame(b"OK") {
                    self.selected = Some(body.to_vec());
                }
                Ok(reply)
            }
            Err(reason) => {
                log::debug!("refused packet `{}`: {reason}", body.escape_ascii());
                self.restart(target)?;
                Ok(packet::frame(b"E16"))
            }
        }
    }

    /// Tells a client that waits for it that the target has stopped; returns the framed replies.
    ///
    /// # Errors
    /// A sentence, when the stub cannot go on.
    pub(super) fn stopped(&mut self, target: &mut GdbTarget, stop: &Stop) -> Result<Vec<u8>, String> {
        let mut reply = packet::console(&stop.message);
        // Whoever is told of a stop looks at its thread, without saying so again.
        self.selected = Some(format!("Hg{:x}", stop.tid).into_bytes());
        self.machine = match self.machine.take() {
            Some(GdbStubStateMachine::Running(machine)) => {
                let reason = match stop.reason {
                    Reason::Signal(signal) => {
                        MultiThreadStopReason::SignalWithThread { tid: stop.tid, signal }
                    }
                    Reason::Watch { kind, addr } => {
                        MultiThreadStopReason::Watch { tid: stop.tid, kind, addr }
                    }
                };
                Some(machine.report_stop(target, reason).map_err(|error| error.to_string())?)
            }
            other => other,
        };
        reply.extend(self.take_reply());
        Ok(reply)
    }

    /// A machine that never acknowledges (the event loop does) and has the client's thread selected.
    fn restart(&mut self, target: &mut GdbTarget) -> Result<(), String> {
        let stub = GdbStub::builder(Reply::default()).packet_buffer_size(BUFFER).build();
        let stub = stub.map_err(|error| error.to_string())?;
        self.machine = Some(stub.run_state_machine(target).map_err(|error| error.to_string())?);
        self.feed(target, b"QStartNoAckMode")?;
        if let Some(selected) = self.selected.clone() {
            self.feed(target, &selected)?;
        }
        Ok(())
    }

    fn feed(&mut self, target: &mut GdbTarget, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut machine = self.machine.take().ok_or("the state machine is gone")?;
        for byte in packet::frame(body) {
            machine = match machine {
                GdbStubStateMachine::Idle(machine) => machine.incoming_data(target, byte),
                GdbStubStateMachine::Running(machine) => machine.incoming_data(target, byte),
                other => Ok(other),
            }
            .map_err(|error| error.to_string())?;
        }
        if let GdbStubStateMachine::Disconnected(inner) = machine {
            // A client that detached may attach again on the same connection (`target extended-remote`).
            machine = match inner.get_reason() {
                DisconnectReason::Disconnect => inner.return_to_idle(),
                _ => GdbStubStateMachine::Disconnected(inner),
            };
        }
        self.machine = Some(machine);
        Ok(self.take_reply())
    }

    fn take_reply(&mut self) -> Vec<u8> {
        let reply = match &mut self.machine {
            Some(GdbStubStateMachine::Idle(machine)) => machine.borrow_conn(),
            Some(GdbStubStateMachine::Running(machine)) => machine.borrow_conn(),
            Some(GdbStubStateMachine::CtrlCInterrupt(machine)) => machine.borrow_conn(),
            Some(GdbStubStateMachine::Disconnected(machine)) => machine.borrow_conn(),
            None => return Vec::new(),
        };
        std::mem::take(&mut reply.0)
    }
}
