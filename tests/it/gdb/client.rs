//! A client of the remote protocol that sends what it is told to, right or wrong.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use nettlp_gdb::gdb::packet::{Decoder, Event, frame};

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    pending: Vec<Event>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        // Only so that a server that never answers fails a test instead of hanging it.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream, decoder: Decoder::default(), pending: Vec::new() }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next thing the server says; `None` when it hung up.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let mut buffer = [0; 4096];
        while self.pending.is_empty() {
            let len = self.stream.read(&mut buffer).unwrap();
            if len == 0 {
                return None;
            }
            self.pending.extend(buffer[..len].iter().filter_map(|byte| self.decoder.push(*byte)));
        }
        Some(self.pending.remove(0))
    }

    /// The next packet, as text.
    pub(crate) fn reply(&mut self) -> Option<String> {
        loop {
            match self.event()? {
                Event::Packet(body) => return Some(String::from_utf8_lossy(&body).into_owned()),
                Event::Ack => {}
                other => panic!("the server sent {other:?}"),
            }
        }
    }

    /// Sends a packet and returns the reply to it.
    pub(crate) fn ask(&mut self, body: &str) -> String {
        self.raw(&frame(body.as_bytes()));
        self.reply().unwrap_or_else(|| panic!("the server hung up on `{body}`"))
    }

    /// Sends a `monitor` command and returns what it printed.
    pub(crate) fn monitor(&mut self, line: &str) -> String {
        let hex: String = line.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.raw(&frame(format!("qRcmd,{hex}").as_bytes()));
        self.console_until("OK")
    }

    /// The text of the next packet, which must be for the console.
    pub(crate) fn console(&mut self) -> String {
        let reply = self.reply().unwrap();
        let text = reply.strip_prefix('O').filter(|hex| *hex != "K");
        String::from_utf8(unhex(text.unwrap_or_else(|| panic!("not console text: {reply}")))).unwrap()
    }

    /// Console text up to the reply `end`.
    pub(crate) fn console_until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        loop {
            let reply = self.reply().unwrap();
            match reply.strip_prefix('O') {
                Some("K") | None => {
                    assert_eq!(reply, end);
                    return String::from_utf8(text).unwrap();
                }
                Some(hex) => text.extend(unhex(hex)),
            }
        }
    }

    /// Reads memory: the bytes, or the error reply.
    pub(crate) fn memory(&mut self, addr: u64, len: usize) -> Result<Vec<u8>, String> {
        let reply = self.ask(&format!("m{addr:x},{len:x}"));
        if reply.starts_with('E') { Err(reply) } else { Ok(unhex(&reply)) }
    }
}

pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
