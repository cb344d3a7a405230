//! Packets of the GDB remote serial protocol: bytes in, events out, and the framing of replies.
//!
//! Sans-IO. Input is whatever a client sends, which may be garbage; every byte is consumed, memory is bounded
//! by [`PACKET_SIZE`], and nothing here knows what a packet means.
//! Source: GDB manual, "Remote Protocol, Overview", "Packet Acknowledgment" and "Interrupts".

/// Most bytes in the body of a packet that a client may send (`PacketSize`), and in one we send.
pub const PACKET_SIZE: usize = 64 * 1024;

/// The byte GDB sends for Ctrl-C.
const INTERRUPT: u8 = 0x03;

/// What the client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A packet whose checksum is right: its body.
    Packet(Vec<u8>),
    /// The last packet sent arrived.
    Ack,
    /// The last packet sent arrived damaged.
    Nack,
    /// Ctrl-C.
    Interrupt,
    /// A packet whose checksum is wrong or unreadable.
    Damaged,
    /// A packet with a body above [`PACKET_SIZE`]; it was thrown away.
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between packets: anything that starts none is skipped.
    Between,
    Body,
    Checksum,
    /// After the first digit, with its value if it was one.
    ChecksumLow(Option<u8>),
}

/// Cuts a stream of bytes into [`Event`]s.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    body: Vec<u8>,
    too_long: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Between, body: Vec::new(), too_long: false }
    }
}

impl Decoder {
    /// Takes one byte; returns the event it completes.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        match (self.state, byte) {
            (State::Between, b'+') => Some(Event::Ack),
            (State::Between, b'-') => Some(Event::Nack),
            (State::Between, INTERRUPT) => Some(Event::Interrupt),
            (State::Between | State::Body, b'$') => {
                self.body.clear();
                self.too_long = false;
                self.state = State::Body;
                None
            }
            (State::Between, _) => None,
            (State::Body, b'#') => {
                self.state = State::Checksum;
                None
            }
            (State::Body, byte) => {
                if self.body.len() < PACKET_SIZE {
                    self.body.push(byte);
                } else {
                    self.too_long = true;
                }
                None
            }
            (State::Checksum, digit) => {
                self.state = State::ChecksumLow(hex_value(digit));
                None
            }
            (State::ChecksumLow(high), digit) => {
                self.state = State::Between;
                Some(self.finish(high, hex_value(digit)))
            }
        }
    }

    fn finish(&mut self, high: Option<u8>, low: Option<u8>) -> Event {
        let body = std::mem::take(&mut self.body);
        match (high, low) {
            _ if self.too_long => Event::TooLong,
            (Some(high), Some(low)) if checksum(&body) == high << 4 | low => Event::Packet(body),
            _ => Event::Damaged,
        }
    }
}

/// Sum of the bytes of a body, modulo 256.
fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// `$body#checksum`. The body must already be escaped.
#[must_use]
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + 4);
    framed.push(b'$');
    framed.extend_from_slice(body);
    framed.extend_from_slice(format!("#{:02x}", checksum(body)).as_bytes());
    framed
}

/// An `E.` reply: GDB shows its text where it shows error replies at all. Bytes a packet may not hold become
/// spaces.
#[must_use]
pub fn error_text(sentence: &str) -> Vec<u8> {
    let safe =
        |byte: u8| if matches!(byte, b'#' | b'$' | b'}' | b'*' | ..b' ' | 0x7f..) { b' ' } else { byte };
    b"E.".iter().copied().chain(sentence.bytes().map(safe)).collect()
}

/// Bytes of `data` as two hexadecimal digits each.
#[must_use]
pub fn hex(data: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or_default();
    data.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes that pairs of hexadecimal digits stand for; `None` when they do not.
#[must_use]
pub fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(hex_value(*high)? << 4 | hex_value(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

/// `HEX,HEX`: where, and how much.
#[must_use]
pub fn hex_pair(text: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = std::str::from_utf8(text).ok()?.split_once(',')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((number(first)?, number(second)?))
}

/// Framed `O` packets that print `text` on GDB's console, each small enough for any client.
#[must_use]
pub fn console(text: &str) -> Vec<u8> {
    const CHUNK: usize = 1024;
    let packet = |chunk: &[u8]| frame(&[b"O".as_slice(), &hex(chunk)].concat());
    text.as_bytes().chunks(CHUNK).flat_map(packet).collect()
}

/// `data` with the bytes that have a meaning in packets escaped (GDB manual, "Binary Data").
#[must_use]
pub fn escape(data: &[u8]) -> Vec<u8> {
    let has_meaning = |byte: &u8| matches!(byte, b'#' | b'$' | b'}' | b'*');
    let mut escaped = Vec::with_capacity(data.len() + data.len() / 16);
    for run in data.split_inclusive(has_meaning) {
        match run.split_last() {
            Some((last, plain)) if has_meaning(last) => {
                escaped.extend_from_slice(plain);
                escaped.extend_from_slice(&[b'}', last ^ 0x20]);
            }
            _ => escaped.extend_from_slice(run),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|byte| decoder.push(*byte)).collect()
    }

    #[test]
    fn a_packet_an_ack_and_an_interrupt() {
        let packet = |body: &str| Event::Packet(body.as_bytes().to_vec());
        assert_eq!(decode(b"+$g#67\x03-"), [Event::Ack, packet("g"), Event::Interrupt, Event::Nack]);
        assert_eq!(decode(b"$#00"), [packet("")]);
        assert_eq!(decode(b"noise$g#67noise"), [packet("g")]);
    }

    #[test]
    fn damaged_packets() {
        assert_eq!(decode(b"$g#68"), [Event::Damaged]);
        assert_eq!(decode(b"$g#zz"), [Event::Damaged]);
        assert_eq!(decode(b"$torn$g#67"), [Event::Packet(b"g".to_vec())], "a new `$` starts over");
    }

    #[test]
    fn a_packet_past_the_limit_is_dropped_and_the_next_one_is_not() {
        let mut stream = frame(&vec![b'a'; PACKET_SIZE + 1]);
        stream.extend(frame(&vec![b'b'; PACKET_SIZE]));
        assert_eq!(decode(&stream), [Event::TooLong, Event::Packet(vec![b'b'; PACKET_SIZE])]);
    }

    #[test]
    fn console_text_is_cut_into_packets() {
        assert_eq!(console("hi"), b"$O6869#2c");
        let long = "x".repeat(3000);
        assert_eq!(decode(&console(&long)).len(), 3);
        assert!(console("").is_empty());
    }

    #[test]
    fn error_text_holds_no_framing() {
        assert_eq!(error_text("no: $1#2\n"), b"E.no:  1 2 ");
    }

    proptest! {
        #[test]
        fn any_bytes_are_consumed_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = Decoder::default();
            for byte in bytes {
                decoder.push(byte);
                prop_assert!(decoder.body.len() <= PACKET_SIZE);
            }
        }

        #[test]
        fn what_is_framed_is_decoded(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let escaped = escape(&body);
            prop_assert_eq!(decode(&frame(&escaped)), [Event::Packet(escaped)]);
        }
    }
}
