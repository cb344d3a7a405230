//! The engine against scripted answers, and against a simulated adapter and network in virtual time.

mod chaos;
mod faults;
mod pace;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::link::{
    nettlp::Stamp,
    tlp::{DW, MemRequest},
};

const ADAPTER: Requester = Requester::from_raw(0x1b00);
const TIMEOUT: Duration = Duration::from_millis(100);

/// The byte at an address.
fn pattern(addr: u64) -> u8 {
    (addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

fn engine(tags: u16, retries: u32) -> Engine {
    Engine::new(Settings { requester: ADAPTER, tags, mrrs: 512, timeout: TIMEOUT, retries })
}

fn request_of(sent: &Transmit) -> MemRequest {
    let (_, tlp) = Stamp::split(sent.datagram()).unwrap();
    let Ok(Tlp::Read(request)) = Tlp::decode(tlp) else { panic!("{sent:?}") };
    assert_eq!((request.tag, request.requester), (sent.tag, ADAPTER));
    request
}

fn datagram(stamp: Stamp, completion: &Completion<'_>) -> Vec<u8> {
    [&stamp.to_bytes()[..], completion.encode().as_ref(), completion.data].concat()
}

/// The answer to `request` in completions of at most `payload` bytes, stamped from `timestamp` on (0: not).
fn answer(request: &MemRequest, payload: usize, timestamp: u32) -> Vec<Vec<u8>> {
    let total = usize::from(request.dwords) * DW;
    let data: Vec<_> = (request.addr..).take(total).map(pattern).collect();
    let mut at = 0;
    data.chunks(payload)
        .zip(0..)
        .map(|(chunk, i)| {
            let lower = (request.addr + at as u64) as u8;
            let completion = Completion::with_data(request, (total - at) as u16, lower, chunk);
            at += chunk.len();
            let timestamp = if timestamp == 0 { 0 } else { timestamp + i };
            datagram(Stamp { sequence: timestamp as u16, timestamp }, &completion)
        })
        .collect()
}

fn is_right(read: &Read<'_>) -> bool {
    (read.addr.raw()..).zip(&*read.buf).all(|(addr, &byte)| byte == pattern(addr))
}

/// Reads 512 bytes at 0x1000 with no retry, hands the engine what `answers` makes of the request, lets the
/// timeout pass, and returns the outcome.
fn outcome(answers: impl FnOnce(&MemRequest) -> Vec<Vec<u8>>) -> Result<(), LinkError> {
    let mut engine = engine(4, 0);
    let mut buf = [0; 512];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let now = Instant::now();
    let mut batch = engine.batch(&mut reads);
    let sent = batch.transmit(now).unwrap();
    for datagram in answers(&request_of(&sent)) {
        batch.receive(sent.tag, &datagram, now);
    }
    batch.expire(now + TIMEOUT);
    assert!(batch.transmit(now + TIMEOUT).is_none() && batch.is_done());
    drop(batch);
    let [read] = reads;
    assert!(read.result.is_err() || is_right(&read));
    read.result
}

/// As [`outcome`], of one completion that `change` spoiled.
fn spoiled(change: impl FnOnce(&mut Vec<u8>)) -> Result<(), LinkError> {
    outcome(|request| {
        let mut answers = answer(request, 512, 1);
        change(&mut answers[0]);
        answers
    })
}

fn malformed(defect: Defect) -> Result<(), LinkError> {
    Err(LinkError::Malformed { addr: PhysAddr::new(0x1000), len: 512, defect })
}

#[test]
fn a_good_answer_in_one_or_more_completions() {
    for payload in [64, 128, 256, 512] {
        assert_eq!(outcome(|request| answer(request, payload, 1)), Ok(()));
        assert_eq!(outcome(|request| answer(request, payload, 0)), Ok(()));
    }
}

#[test]
fn error_statuses_are_final_and_distinct() {
    let refused = |status| {
        outcome(|request| {
            vec![datagram(Stamp::default(), &Completion::without_data(request, status, 512, 0))]
        })
    };
    let (addr, len) = (PhysAddr::new(0x1000), 512);
    assert_eq!(refused(Status::Unsupported), Err(LinkError::UnsupportedRequest { addr, len }));
    assert_eq!(refused(Status::Abort), Err(LinkError::CompleterAbort { addr, len }));
    assert_eq!(refused(Status::ConfigRetry), Err(LinkError::ConfigRetry { addr, len }));
    assert_eq!(refused(Status::Success), malformed(Defect::Status(0)));
    assert_eq!(refused(Status::Reserved(3)), malformed(Defect::Status(3)));
}

#[test]
fn every_field_that_matters_is_checked() {
    let flip = |offset: usize, bits: u8| spoiled(|datagram| datagram[HEADER_LEN + offset] ^= bits);
    let (addr, len) = (PhysAddr::new(0x1000), 512);
    assert_eq!(flip(0, 0x10), malformed(Defect::Type(0x5a)));
    assert_eq!(flip(0, 0x40), malformed(Defect::DataLength { stated: 0, got: 512 }));
    assert_eq!(flip(0, 0x4a), malformed(Defect::Request));
    assert_eq!(flip(2, 0x80), malformed(Defect::Digest));
    assert_eq!(flip(2, 0x40), Err(LinkError::Poisoned { addr, len }));
    assert_eq!(flip(3, 0x01), malformed(Defect::DataLength { stated: 516, got: 512 }));
    assert_eq!(flip(6, 0x20), malformed(Defect::Status(1)));
    assert_eq!(flip(6, 0x10), malformed(Defect::ByteCount { wanted: 512, got: 512 }));
    assert_eq!(flip(7, 0x04), malformed(Defect::ByteCount { wanted: 512, got: 516 }));
    assert_eq!(flip(9, 0x08), malformed(Defect::Requester(Requester::from_raw(0x1b08))));
    assert_eq!(flip(10, 0x01), malformed(Defect::Tag(1)));
    assert_eq!(flip(11, 0x04), malformed(Defect::LowerAddress { wanted: 0, got: 4 }));
    assert_eq!(
        spoiled(|datagram| datagram.truncate(500)),
        malformed(Defect::DataLength { stated: 512, got: 482 })
    );
    assert_eq!(spoiled(|datagram| datagram.truncate(9)), malformed(Defect::Short));
    assert_eq!(
        spoiled(|datagram| datagram.extend([0; 4])),
        malformed(Defect::DataLength { stated: 512, got: 516 })
    );
    // These do not change what the data are.
    for (offset, bits) in [(1, 0x70), (2, 0x30), (4, 0xff)] {
        assert_eq!(flip(offset, bits), Ok(()));
    }
}

#[test]
fn more_data_than_asked_for() {
    let overlong = outcome(|request| {
        let longer = MemRequest { dwords: 130, ..*request };
        let mut answers = answer(&longer, 520, 1);
        answers[0][HEADER_LEN + 7] = 0;
        answers
    });
    assert_eq!(overlong, malformed(Defect::Overlong));
}

#[test]
fn completions_of_one_request_out_of_order() {
    for timestamp in [0, 1] {
        let swapped = outcome(|request| {
            let mut answers = answer(request, 256, timestamp);
            answers.swap(0, 1);
            answers
        });
        assert_eq!(swapped, malformed(Defect::ByteCount { wanted: 512, got: 256 }));
        let doubled = outcome(|request| {
            let [first, second] = answer(request, 256, timestamp).try_into().unwrap();
            vec![first.clone(), first, second]
        });
        assert_eq!(doubled, Ok(()));
    }
}

#[test]
fn a_timeout_retries_with_another_tag() {
    let mut engine = engine(4, 1);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x1003), &mut buf)];
    let start = Instant::now();
    let mut batch = engine.batch(&mut reads);
    let first = batch.transmit(start).unwrap();
    assert!(batch.transmit(start).is_none() && !batch.is_done());
    assert_eq!(batch.deadline(), Some(start + TIMEOUT));
    batch.expire(start + TIMEOUT / 2);
    assert!(batch.transmit(start + TIMEOUT / 2).is_none());
    batch.expire(start + TIMEOUT);
    let second = batch.transmit(start + TIMEOUT).unwrap();
    assert_ne!(first.tag, second.tag);
    assert_eq!(request_of(&first).addr, request_of(&second).addr);
    batch.receive(second.tag, &answer(&request_of(&second), 256, 0)[0], start + TIMEOUT);
    assert!(batch.is_done());
    drop(batch);
    assert!(reads[0].result == Ok(()) && is_right(&reads[0]));
    assert_eq!((engine.stats().retries, engine.stats().timeouts), (1, 1));
}

/// A read of 8 bytes that nobody answers; returns its request.
fn unanswered(engine: &mut Engine, now: Instant) -> MemRequest {
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let sent = batch.transmit(now).unwrap();
    batch.expire(now + TIMEOUT);
    assert!(batch.is_done());
    drop(batch);
    assert!(matches!(reads[0].result, Err(LinkError::Timeout { attempts: 1, len: 8, .. })));
    request_of(&sent)
}

#[test]
fn a_tag_is_not_used_while_its_answer_may_come() {
    let mut engine = engine(1, 0);
    let start = Instant::now();
    let old = unanswered(&mut engine, start);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x2000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    assert!(batch.transmit(start + TIMEOUT).is_none() && !batch.is_done());
    batch.receive(0, &answer(&old, 64, 0)[0], start + 2 * TIMEOUT);
    assert!(batch.transmit(start + 2 * TIMEOUT).is_none() && !batch.is_done());
    let until = start + TIMEOUT * (1 + RETIRE);
    assert_eq!(batch.deadline(), Some(until));
    let sent = batch.transmit(until).unwrap();
    assert!(sent.drain, "what came meanwhile is thrown away");
    batch.receive(0, &answer(&request_of(&sent), 64, 0)[0], until);
    drop(batch);
    assert!(reads[0].result == Ok(()) && is_right(&reads[0]));
}

/// With a timeout of 1 ms, a completion that a root complex may still send after 50 ms met its tag in use again.
#[test]
fn a_short_timeout_does_not_shorten_retirement() {
    let timeout = Duration::from_millis(1);
    let mut engine = Engine::new(Settings { requester: ADAPTER, tags: 1, mrrs: 512, timeout, retries: 0 });
    let start = Instant::now();
    let old = unanswered(&mut engine, start);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x2000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let now = start + Duration::from_millis(900);
    assert!(batch.transmit(now).is_none(), "its tag still waits");
    batch.receive(0, &answer(&old, 64, 0)[0], now);
    assert!(!batch.is_done() && batch.deadline() >= Some(start + LEAST_RETIREMENT));
    drop(batch);
    assert!(reads[0].result.is_err());
}

#[test]
fn a_stamped_late_answer_frees_its_tag() {
    let mut engine = engine(1, 0);
    let start = Instant::now();
    let old = unanswered(&mut engine, start);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x2000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let now = start + 2 * TIMEOUT;
    assert!(batch.transmit(now).is_none());
    let late = answer(&old, 64, 1000);
    batch.receive(0, &late[0], now);
    let sent = batch.transmit(now).unwrap();
    // The same frame again, and one the network held back for long.
    batch.receive(0, &late[0], now);
    batch.receive(0, &answer(&old, 64, 900)[0], now);
    assert!(!batch.is_done());
    batch.receive(0, &answer(&request_of(&sent), 64, 1001)[0], now);
    assert!(batch.is_done());
    drop(batch);
    assert!(reads[0].result == Ok(()) && is_right(&reads[0]));
    assert_eq!(engine.stats().stale, 3);
}

#[test]
fn an_adapter_whose_clock_starts_over_is_believed_after_a_timeout() {
    let mut engine = engine(4, 1);
    let mut now = Instant::now();
    for (timestamp, timeouts) in [(5_000_000, 0), (100, 1), (200, 1)] {
        let mut buf = [0; 8];
        let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
        let mut batch = engine.batch(&mut reads);
        now += TIMEOUT;
        while let Some(sent) = batch.transmit(now) {
            batch.receive(sent.tag, &answer(&request_of(&sent), 64, timestamp)[0], now);
            if batch.awaits(sent.tag) {
                now += TIMEOUT;
                batch.expire(now);
            }
        }
        drop(batch);
        assert!(reads[0].result == Ok(()) && is_right(&reads[0]));
        assert_eq!(engine.stats().timeouts, timeouts);
    }
}

#[test]
fn the_adapters_clock_wraps() {
    let mut engine = engine(4, 0);
    let now = Instant::now();
    for timestamp in [u32::MAX - 1, u32::MAX, 5] {
        let mut buf = [0; 8];
        let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
        let mut batch = engine.batch(&mut reads);
        let sent = batch.transmit(now).unwrap();
        batch.receive(sent.tag, &answer(&request_of(&sent), 64, timestamp)[0], now);
        drop(batch);
        assert_eq!(reads[0].result, Ok(()));
    }
}

#[test]
fn frames_missing_from_the_sequence_are_counted() {
    let mut engine = engine(1, 0);
    let mut batch = engine.batch(&mut []);
    let request = MemRequest::for_bytes(0, 4, ADAPTER, 0);
    for sequence in [65_534, 65_535, 2, 1, 3] {
        let completion = Completion::without_data(&request, Status::Unsupported, 4, 0);
        batch.receive(0, &datagram(Stamp { sequence, timestamp: 7 }, &completion), Instant::now());
    }
    drop(batch);
    assert_eq!((engine.stats().lost, engine.stats().stale), (1, 5), "one of two was only late");
}

#[test]
fn a_refusal_uses_up_attempts_without_waiting() {
    let mut engine = engine(1, 2);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let now = Instant::now();
    while let Some(sent) = batch.transmit(now) {
        batch.socket_failed(sent.tag, io::ErrorKind::ConnectionRefused, now);
    }
    assert!(batch.is_done());
    drop(batch);
    assert_eq!(reads[0].result, Err(LinkError::NoAdapter { addr: PhysAddr::new(0x1000), len: 8 }));
    assert_eq!(engine.stats().requests, 3);
}

/// Out of memory for one datagram, say, when the answer is the next.
#[test]
fn an_error_of_the_socket_does_not_say_that_no_answer_comes() {
    let mut engine = engine(1, 1);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let now = Instant::now();
    let old = batch.transmit(now).unwrap();
    batch.socket_failed(old.tag, io::ErrorKind::OutOfMemory, now);
    assert!(batch.transmit(now).is_none() && !batch.is_done(), "the tag rests");
    drop(batch);

    let mut reads = [Read::new(PhysAddr::new(0x2000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    batch.receive(old.tag, &answer(&request_of(&old), 64, 0)[0], now);
    assert!(batch.transmit(now).is_none() && !batch.is_done());
    let sent = batch.transmit(now + LEAST_RETIREMENT).unwrap();
    batch.receive(sent.tag, &answer(&request_of(&sent), 64, 0)[0], now + LEAST_RETIREMENT);
    drop(batch);
    assert!(reads[0].result == Ok(()) && is_right(&reads[0]));
}

#[test]
fn a_batch_given_up_retires_its_tags() {
    let mut engine = engine(1, 0);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let now = Instant::now();
    let mut batch = engine.batch(&mut reads);
    let old = request_of(&batch.transmit(now).unwrap());
    batch.abort(io::ErrorKind::Other);
    drop(batch);
    assert!(matches!(reads[0].result, Err(LinkError::Socket { .. })));
    let mut batch = engine.batch(&mut reads);
    assert!(batch.transmit(now).is_none());
    batch.receive(old.tag, &answer(&old, 64, 0)[0], now);
    assert!(!batch.is_done());
}

/// Half of the first piece and then all of it are not as much as both pieces.
#[test]
fn a_piece_asked_for_again_counts_once() {
    let mut engine = engine(4, 1);
    let mut buf = [0; 1024];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let now = Instant::now();
    let mut batch = engine.batch(&mut reads);
    let first = batch.transmit(now).unwrap();
    let second = batch.transmit(now).unwrap();
    batch.receive(first.tag, &answer(&request_of(&first), 256, 100)[0], now);
    batch.expire(now + TIMEOUT);
    for _ in 0..2 {
        let again = batch.transmit(now + TIMEOUT).unwrap();
        if request_of(&again).addr == request_of(&first).addr {
            answer(&request_of(&again), 256, 200)
                .iter()
                .for_each(|frame| batch.receive(again.tag, frame, now + TIMEOUT));
        }
    }
    assert!(!batch.is_done() && second.tag != first.tag);
    batch.abort(io::ErrorKind::Other);
    drop(batch);
    assert!(matches!(reads[0].result, Err(LinkError::Socket { .. })), "512 of its bytes never came");
    assert_eq!(engine.stats().bytes, 512);
}

#[test]
fn reads_that_cannot_be_sent() {
    let mut engine = engine(1, 0);
    let (mut past, mut end) = ([0; 2], [0; 1]);
    let mut reads = [
        Read::new(PhysAddr::new(u64::MAX), &mut past),
        Read::new(PhysAddr::new(7), &mut []),
        Read::new(PhysAddr::new(u64::MAX), &mut end),
    ];
    assert!(matches!(reads[0].result, Err(LinkError::NotAttempted { .. })));
    let mut batch = engine.batch(&mut reads);
    let now = Instant::now();
    let sent = batch.transmit(now).unwrap();
    assert_eq!(request_of(&sent).addr, u64::MAX - 3);
    batch.not_sent(0, io::ErrorKind::HostUnreachable);
    assert!(batch.transmit(now).is_none() && batch.is_done());
    drop(batch);
    assert_eq!(reads[0].result, Err(LinkError::PastEnd { addr: PhysAddr::new(u64::MAX), len: 2 }));
    assert_eq!(reads[1].result, Ok(()));
    assert!(matches!(reads[2].result, Err(LinkError::Socket { kind: io::ErrorKind::HostUnreachable, .. })));
}

#[test]
fn a_failed_part_stops_the_rest_of_its_read_only() {
    let mut engine = engine(1, 3);
    let (mut long, mut short) = ([0; 2048], [0; 8]);
    let mut reads =
        [Read::new(PhysAddr::new(0x1000), &mut long), Read::new(PhysAddr::new(0x9000), &mut short)];
    let mut batch = engine.batch(&mut reads);
    let now = Instant::now();
    let first = request_of(&batch.transmit(now).unwrap());
    let refusal = Completion::without_data(&first, Status::Unsupported, 512, 0);
    batch.receive(0, &datagram(Stamp::default(), &refusal), now);
    let next = request_of(&batch.transmit(now).unwrap());
    assert_eq!(next.addr, 0x9000);
    batch.receive(0, &answer(&next, 64, 0)[0], now);
    assert!(batch.transmit(now).is_none() && batch.is_done());
    drop(batch);
    assert!(matches!(reads[0].result, Err(LinkError::UnsupportedRequest { len: 512, .. })));
    assert_eq!(reads[1].result, Ok(()));
}

proptest! {
    /// Completions cut at any multiples of the RCB, tags answered in any order.
    #[test]
    fn any_legal_cut_reassembles(
        addr in 0_u64..0x2_0000_0000, len in 1_usize..6000, tags in 1_u16..=256,
        cuts in prop::collection::vec(1_usize..9, 1..9), order in any::<u64>(),
    ) {
        let mut engine = engine(tags, 0);
        let mut buf = vec![0; len];
        let mut reads = [Read::new(PhysAddr::new(addr), &mut buf)];
        let mut batch = engine.batch(&mut reads);
        let now = Instant::now();
        let mut waiting: Vec<(MemRequest, usize)> = Vec::new();
        let (mut cuts, mut order) = (cuts.iter().cycle(), order);
        loop {
            waiting.extend(std::iter::from_fn(|| batch.transmit(now)).map(|sent| (request_of(&sent), 0)));
            if batch.is_done() {
                break;
            }
            order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = (order >> 33) as usize % waiting.len();
            let (request, at) = waiting[index];
            let total = usize::from(request.dwords) * DW;
            let start = request.addr + at as u64;
            let room = 64 * cuts.next().unwrap() - (start % 64) as usize;
            let data: Vec<_> = (start..).take(room.min(total - at)).map(pattern).collect();
            let completion = Completion::with_data(&request, (total - at) as u16, start as u8, &data);
            batch.receive(request.tag, &datagram(Stamp::default(), &completion), now);
            waiting[index].1 += data.len();
            if waiting[index].1 == total {
                waiting.remove(index);
            }
        }
        drop(batch);
        prop_assert_eq!(&reads[0].result, &Ok(()));
        prop_assert!(is_right(&reads[0]));
    }
}
