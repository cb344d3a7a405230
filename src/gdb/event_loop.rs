//! One client's dialogue: its bytes, its Ctrl-C and the target's stops, in turn, until it goes.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    View,
    audit::PacketAudit,
    connection::{Connection, Input, is_hang_up},
    host::Host,
    intercept::{Answer, Interceptor},
    packet::{self, Decoder, Event},
    patience::{Debt, Offence, Patience},
    stub::{Mode, Stub},
    target::{GdbTarget, Running, Stop},
};
use crate::audit::Trail;

/// A socket's time limit must not be zero.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Why a dialogue ended before its client left.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The client kept everybody else waiting.
    #[error("the client was cut off: {0}")]
    CutOff(Offence),
    /// The protocol cannot go on.
    #[error("the protocol engine gave up: {0}")]
    Stub(String),
}

struct Dialogue {
    connection: Connection,
    target: GdbTarget,
    stub: Stub,
    interceptor: Interceptor,
    audit: PacketAudit,
    /// Packets are acknowledged until the client asks not to.
    acks: bool,
    /// The last reply, for a client that did not get it.
    last: Vec<u8>,
}

/// Serves `connection` until the client closes it or is gone; what it asks for goes to `trail` first.
///
/// # Errors
/// [`DialogueError`] when it ends otherwise.
pub fn run(
    connection: Connection,
    host: Arc<dyn Host>,
    view: View,
    trail: Option<Trail>,
    patience: Patience,
) -> Result<(), DialogueError> {
    let audit = PacketAudit::new(trail);
    let mut target = GdbTarget::new(host, view);
    let stub = Stub::new(&mut target).map_err(DialogueError::Stub)?;
    let mut dialogue = Dialogue {
        connection,
        target,
        stub,
        interceptor: Interceptor::default(),
        audit,
        acks: true,
        last: Vec::new(),
    };
    match dialogue.run(patience) {
        Err(DialogueError::Io(error)) if is_hang_up(&error) => Ok(()),
        outcome => outcome,
    }
}

impl Dialogue {
    fn run(&mut self, patience: Patience) -> Result<(), DialogueError> {
        let mut decoder = Decoder::default();
        let mut debt = Debt::new(patience, Instant::now());
        loop {
            let poll = match self.stub.mode() {
                Mode::Stopped => None,
                Mode::Running => self.poll()?,
                Mode::Gone => return Ok(()),
            };
            let left = debt.left(Instant::now()).map(|left| left.max(SHORTEST_WAIT));
            let limit = [poll, left].into_iter().flatten().min();
            let bytes = match self.connection.read(limit)? {
                Input::Bytes(bytes) => bytes.to_vec(),
                Input::Nothing => Vec::new(),
                Input::End => return Ok(()),
            };
            let mut finished = true;
            for byte in bytes {
                let event = decoder.push(byte);
                finished = event.is_some();
                if let Some(event) = event {
                    debt.paid(&event);
                    self.event(event)?;
                }
            }
            if !finished {
                debt.owes(Instant::now());
            }
            if let Some(offence) = debt.offence(Instant::now()) {
                return Err(DialogueError::CutOff(offence));
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), DialogueError> {
        match event {
            Event::Packet(body) => {
                self.acknowledge()?;
                self.packet(&body)?;
            }
            Event::Ack => self.last.clear(),
            Event::Nack => self.connection.write(&self.last)?,
            Event::Interrupt if self.stub.mode() == Mode::Running => {
                let stop = self.target.interrupt(self.stub.selected());
                self.stopped(&stop)?;
            }
            // Sent to a target that is stopped, it came too late.
            Event::Interrupt => {}
            Event::Damaged if self.acks => self.connection.write(b"-")?,
            Event::Damaged => log::debug!("a packet with a wrong checksum was ignored"),
            Event::TooLong => {
                self.acknowledge()?;
                let text = format!("the packet is longer than the {} bytes announced", packet::PACKET_SIZE);
                self.send(packet::frame(&packet::error_text(&text)))?;
            }
        }
        Ok(())
    }

    fn packet(&mut self, body: &[u8]) -> Result<(), DialogueError> {
        log::trace!("<- {}", body.escape_ascii());
        if let Err(error) = self.audit.packet(&mut self.target, self.stub.selected(), body) {
            log::error!("{error}");
            return self.send(packet::frame(&packet::error_text(&error.to_string())));
        }
        let reply = match self.interceptor.answer(&mut self.target, self.stub.selected(), body) {
            Answer::Reply(body) => packet::frame(&body),
            Answer::Forward => {
                let reply = self.stub.packet(&mut self.target, body).map_err(DialogueError::Stub)?;
                match self.target.take_refusal() {
                    Some(sentence) => packet::frame(&packet::error_text(&sentence)),
                    None => reply,
                }
            }
            Answer::StopAcks => {
                self.send(packet::frame(b"OK"))?;
                self.acks = false;
                return Ok(());
            }
        };
        self.send(reply)
    }

    /// Looks at a target that the client thinks is running, and says for how long it may wait until the next look.
    fn poll(&mut self) -> Result<Option<Duration>, DialogueError> {
        match self.target.poll(Instant::now(), self.stub.selected()) {
            Running::Stopped(stop) => {
                self.stopped(&stop)?;
                Ok(None)
            }
            Running::Wait { limit, message } => {
                self.connection.write(&packet::console(&message))?;
                Ok(limit)
            }
        }
    }

    /// Tells the client, which waits for it, that the target has stopped.
    fn stopped(&mut self, stop: &Stop) -> Result<(), DialogueError> {
        let reply = self.stub.stopped(&mut self.target, stop).map_err(DialogueError::Stub)?;
        self.send(reply)
    }

    /// Says that a packet has arrived, before anything is read for it: a client that waits for this sends it again.
    fn acknowledge(&mut self) -> Result<(), DialogueError> {
        if self.acks {
            self.connection.write(b"+")?;
        }
        Ok(())
    }

    fn send(&mut self, reply: Vec<u8>) -> Result<(), DialogueError> {
        log::trace!("-> {}", reply.escape_ascii());
        self.connection.write(&reply)?;
        self.last = if self.acks { reply } else { Vec::new() };
        Ok(())
    }
}
