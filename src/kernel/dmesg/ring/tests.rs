use proptest::prelude::*;

use super::*;
use crate::kernel::testing::Structs;

const DESC: usize = 24;
const INFO: usize = 32;

fn layout() -> Layout {
    let types = Structs::new()
        .add(
            "prb_desc",
            DESC as u64,
            &[("state_var", 0, 8), ("text_blk_lpos.begin", 8, 8), ("text_blk_lpos.next", 16, 8)],
        )
        .add(
            "printk_info",
            INFO as u64,
            &[
                ("seq", 0, 8),
                ("ts_nsec", 8, 8),
                ("text_len", 16, 2),
                ("facility", 18, 1),
                ("level", 19, 1),
                ("caller_id", 20, 4),
            ],
        );
    Layout::resolve(&types).unwrap()
}

/// A ring that is written as the kernel does: blocks never cross the end of the byte ring.
struct Writer {
    ring: Ring,
    bytes: Vec<u8>,
    id: u64,
    lpos: u64,
}

impl Writer {
    fn new(size_bits: u32, id: u64, lpos: u64) -> Self {
        let ring = Ring { tail_id: id, size_bits, text_start: lpos, ..Ring::default() };
        Self { ring, bytes: vec![0xee; 1 << size_bits], id, lpos }
    }

    fn desc(&mut self, state: u64, begin: u64, next: u64, text_len: usize) {
        let words = [state << STATE_SHIFT | self.id, begin, next];
        self.ring.descs.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let start = self.ring.infos.len();
        self.ring.infos.extend(self.id.wrapping_add(1000).to_le_bytes());
        self.ring.infos.extend(self.id.wrapping_mul(1_000_000).to_le_bytes());
        self.ring.infos.extend((text_len as u16).to_le_bytes());
        self.ring.infos.extend([0, 6, 1, 0, 0, 0x80]);
        self.ring.infos.resize(start + INFO, 0);
        self.id = (self.id + 1) & ID_MASK;
    }

    fn push(&mut self, text: &str) {
        let size = (ID_BYTES as usize + text.len()).next_multiple_of(8) as u64;
        let (begin, round) = (self.lpos, 1_u64 << self.ring.size_bits);
        let fits = begin / round == (begin + size - 1) / round;
        let start = if fits { begin } else { (begin + size) / round * round };
        let next = start + size;
        let at = (start % round) as usize;
        self.bytes[at..at + 8].copy_from_slice(&self.id.to_le_bytes());
        self.bytes[at + 8..at + 8 + text.len()].copy_from_slice(text.as_bytes());
        self.lpos = next;
        self.desc(FINALIZED, begin, next, text.len());
    }

    fn finish(mut self) -> Ring {
        let round = 1_u64 << self.ring.size_bits;
        self.ring.text =
            (self.ring.text_start..self.lpos).map(|lpos| self.bytes[(lpos % round) as usize]).collect();
        self.ring
    }
}

fn texts(ring: &Ring) -> Vec<String> {
    parse(&layout(), ring, &ring.descs).records.into_iter().map(|record| record.text).collect()
}

#[test]
fn records_in_order_with_their_fields() {
    let mut writer = Writer::new(8, 5, 0x1000);
    writer.push("Linux version");
    writer.push("two\nlines");
    let ring = writer.finish();
    let records = parse(&layout(), &ring, &ring.descs).records;
    let first = &records[0];
    assert_eq!((first.seq, first.level, first.facility), (1005, 6, 0));
    assert_eq!(first.caller_id, Some(0x8000_0001));
    assert_eq!(records[1].lines().collect::<Vec<_>>(), ["[    0.006000] two", "[    0.006000] lines"]);
}

#[test]
fn a_block_over_the_end_lies_at_the_start() {
    let mut writer = Writer::new(6, 0, 0x1000 + 40);
    writer.push("does not fit in 24 bytes");
    writer.push("next");
    assert_eq!(texts(&writer.finish()), ["does not fit in 24 bytes", "next"]);
}

#[test]
fn a_block_may_end_exactly_on_the_end() {
    let mut writer = Writer::new(6, 0, 0x1000 + 40);
    writer.push("sixteen bytes .."); // 8 + 16 = the 24 that are left
    writer.push("next");
    assert_eq!(texts(&writer.finish()), ["sixteen bytes ..", "next"]);
}

#[test]
fn only_committed_and_unchanged_descriptors_are_shown() {
    let mut writer = Writer::new(8, 0, 0);
    writer.desc(COMMITTED, EMPTY_LINE, EMPTY_LINE, 0);
    writer.desc(FINALIZED, 1, 1, 9); // FAILED_LPOS: the text was lost
    writer.desc(0, 0, 16, 8); // reserved
    writer.desc(3, 0, 16, 8); // reusable
    writer.push("kept");
    writer.push("reused while it was read");
    let ring = writer.finish();
    assert_eq!(texts(&ring), ["", "kept", "reused while it was read"]);
    assert_eq!(parse(&layout(), &ring, &ring.descs).lost, 0);
    let mut after = ring.descs.clone();
    after[5 * DESC] ^= 0x40;
    let kept = parse(&layout(), &ring, &after);
    assert_eq!(kept.records.last().map(|record| record.text.as_str()), Some("kept"));
    assert_eq!(
        kept.loss().unwrap(),
        "1 message of the kernel log is damaged or was replaced while the log was read"
    );
}

#[test]
fn a_block_of_another_descriptor_is_not_taken() {
    let mut writer = Writer::new(8, 0, 0);
    writer.push("overwritten");
    let mut ring = writer.finish();
    ring.text[0] ^= 1;
    assert_eq!(parse(&layout(), &ring, &ring.descs), Log { lost: 1, ..Log::default() });
}

#[test]
fn what_is_being_written_is_no_loss() {
    let mut writer = Writer::new(8, 300, 0);
    writer.push("old");
    let before = writer.lpos;
    writer.push("newer than the copy of the text");
    writer.lpos = before;
    writer.push("gone on with");
    writer.desc(0, 0, 0, 0);
    writer.desc(0, 0, 0, 0);
    let mut ring = writer.finish();
    let state = |ring: &mut Ring, at: usize, value: u64| {
        ring.descs[at * DESC..][..8].copy_from_slice(&value.to_le_bytes());
    };
    ring.text.truncate(before as usize);
    state(&mut ring, 2, COMMITTED << STATE_SHIFT | 302);
    // Given to a writer, and not written yet: never used before, and used one round ago.
    state(&mut ring, 3, 0);
    state(&mut ring, 4, REUSABLE << STATE_SHIFT | 48);
    let mut after = ring.descs.clone();
    after[2 * DESC + 7] = (FINALIZED << 6) as u8;
    let log = parse(&layout(), &ring, &after);
    assert_eq!((log.records.len(), log.lost), (1, 0));

    state(&mut ring, 1, 0);
    assert_eq!(parse(&layout(), &ring, &ring.descs).lost, 1, "an empty descriptor among others");
}

#[test]
fn ids_wrap_below_the_state_bits() {
    let mut writer = Writer::new(8, ID_MASK, 0);
    writer.push("last id");
    writer.push("first id");
    assert_eq!(texts(&writer.finish()), ["last id", "first id"]);
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        lines in proptest::collection::vec("[ -~]{0,40}", 1..6),
        start in (0_u64..1 << 12).prop_map(|lpos| lpos * 8),
    ) {
        let mut writer = Writer::new(9, 3, start);
        for line in &lines {
            writer.push(line);
        }
        prop_assert_eq!(texts(&writer.finish()), lines);
    }

    #[test]
    fn hostile_bytes_do_no_harm(
        descs in proptest::collection::vec(any::<u8>(), 0..200),
        infos in proptest::collection::vec(any::<u8>(), 0..200),
        text in proptest::collection::vec(any::<u8>(), 0..200),
        tail_id in any::<u64>(),
        size_bits in 0_u32..27,
        text_start in any::<u64>(),
    ) {
        let ring = Ring { tail_id, descs: descs.clone(), infos, size_bits, text_start, text };
        let _ = parse(&layout(), &ring, &descs);
    }
}

#[test]
fn messages_that_share_a_block_are_not_many_times_as_long() {
    let mut writer = Writer::new(12, 7, 0);
    writer.bytes.fill(b'x');
    let text = "x".repeat(1000);
    writer.push(&text);
    let begin = writer.lpos;
    // Each block begins with its id and holds all that follow it.
    for at in 0..100 {
        let (id, begin) = (writer.id, begin + 8 * at);
        writer.bytes[begin as usize..][..8].copy_from_slice(&id.to_le_bytes());
        writer.desc(FINALIZED, begin, 4096, 4000);
    }
    writer.lpos = 4096;
    let ring = writer.finish();
    let said = texts(&ring);
    assert_eq!(said[0], text);
    assert!(
        said.len() > 1 && said.iter().map(String::len).sum::<usize>() <= ring.text.len(),
        "{}",
        said.len()
    );
}
