//! How soon is asked again, and how much at once.

use super::*;

/// An engine that has seen answers after 20 microseconds.
fn used_to_quick_answers(tags: u16, retries: u32, now: Instant) -> Engine {
    let mut engine = engine(tags, retries);
    for _ in 0..20 {
        let mut buf = [0; 8];
        let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
        let mut batch = engine.batch(&mut reads);
        let sent = batch.transmit(now).unwrap();
        batch.receive(sent.tag, &answer(&request_of(&sent), 64, 0)[0], now + Duration::from_micros(20));
    }
    engine
}

#[test]
fn where_answers_are_quick_one_that_was_overtaken_is_asked_for_again_soon_and_once() {
    let start = Instant::now();
    let mut engine = used_to_quick_answers(4, 1, start);
    let (mut lost, mut other) = ([0; 8], [0; 8]);
    let mut reads = [0x1000, 0x2000].map(PhysAddr::new).into_iter().zip([&mut lost, &mut other]);
    let mut reads: [Read<'_>; 2] =
        std::array::from_fn(|_| reads.next().map(|(addr, buf)| Read::new(addr, buf)).unwrap());
    let mut batch = engine.batch(&mut reads);
    let first = batch.transmit(start).unwrap();
    let later = batch.transmit(start + Duration::from_micros(1)).unwrap();
    let soon = batch.deadline().unwrap();
    assert!(soon < start + TIMEOUT / 4);
    batch.expire(soon);
    assert!(batch.transmit(soon).is_none(), "nothing is answered: it may be the adapter that is slow");
    batch.receive(later.tag, &answer(&request_of(&later), 64, 400)[0], soon);
    assert!(batch.deadline().unwrap() < start + TIMEOUT / 4);
    let soon = start + TIMEOUT / 4;
    batch.expire(soon);
    let second = batch.transmit(soon).unwrap();
    assert_eq!(request_of(&second).addr, request_of(&first).addr);
    assert_ne!(first.tag, second.tag);
    // The answer to the first comes after all: its tag is free again, but only the second can be answered.
    batch.receive(first.tag, &answer(&request_of(&first), 64, 500)[0], soon);
    assert!(!batch.is_done());
    assert_eq!(batch.deadline(), Some(soon + TIMEOUT), "from now on every wait is the whole one");
    batch.expire(soon + TIMEOUT);
    let third = batch.transmit(soon + TIMEOUT).unwrap();
    batch.expire(soon + 2 * TIMEOUT);
    assert!(batch.transmit(soon + 2 * TIMEOUT).is_none() && batch.is_done());
    drop(batch);
    assert_eq!(
        reads[0].result,
        Err(LinkError::Timeout { addr: PhysAddr::new(0x1000), len: 8, attempts: 3 }),
        "two attempts as allowed, and the hasty one"
    );
    assert!(third.tag != second.tag && engine.stats().retries == 2);
}

/// Reads eight places at `start`. The last `first` requests are answered at once, the others when the adapter goes on,
/// `stall` later. Returns how many were asked again meanwhile.
fn asked_again_in_a_stall(
    engine: &mut Engine,
    start: Instant,
    stall: Duration,
    first: usize,
    stamp: u32,
) -> u64 {
    let before = engine.stats().retries;
    let mut bufs = [[0; 8]; 8];
    let mut reads: Vec<Read<'_>> =
        (1..).zip(&mut bufs).map(|(place, buf)| Read::new(PhysAddr::new(place << 12), buf)).collect();
    let mut batch = engine.batch(&mut reads);
    let mut sent = Vec::new();
    for micros in 0..8 {
        sent.extend(batch.transmit(start + Duration::from_micros(micros)));
    }
    let late = sent.split_off(sent.len() - first);
    let deliver = |batch: &mut Batch<'_, '_, '_>, sent: Vec<Transmit>, stamp: u32, now: Instant| {
        for (sent, stamp) in sent.into_iter().zip(stamp..) {
            batch.receive(sent.tag, &answer(&request_of(&sent), 64, stamp)[0], now);
        }
    };
    deliver(&mut batch, late, stamp, start + Duration::from_micros(20));
    while let Some(at) = batch.deadline().filter(|at| *at < start + stall) {
        batch.expire(at);
        sent.extend(std::iter::from_fn(|| batch.transmit(at)));
    }
    deliver(&mut batch, sent, stamp + 100, start + stall);
    assert!(batch.transmit(start + stall).is_none() && batch.is_done());
    drop(batch);
    assert!(reads.iter().all(|read| read.result == Ok(()) && is_right(read)));
    engine.stats().retries - before
}

/// On a machine that had too much to do, a request in 2,000 was sent twice and none was lost: the adapter's process had
/// stood still for more than the 10 ms that were waited, between the answer to a later request and that to an earlier.
#[test]
fn an_adapter_that_stands_still_is_not_asked_again_and_again() {
    let start = Instant::now();
    let mut engine = used_to_quick_answers(32, 1, start);
    let stall = Duration::from_millis(40);
    let at = |nth: u32| start + stall * (5 * nth);
    assert_eq!(
        asked_again_in_a_stall(&mut engine, at(1), stall, 2, 1000),
        0,
        "two later answers prove nothing"
    );
    assert_eq!(
        asked_again_in_a_stall(&mut engine, at(2), stall, 3, 2000),
        0,
        "and it is known to be slow now"
    );
    let rested = at(3) + Duration::from_secs(5);
    (0..20).for_each(|_| engine.pace.answered(rested, Duration::from_micros(20)));
    assert_eq!(asked_again_in_a_stall(&mut engine, rested, stall, 3, 3000), 5, "long ago, five seem lost");
    for (nth, stamp) in [(1_u32, 4000), (2, 5000), (3, 6000)] {
        let now = rested + stall * (5 * nth);
        assert_eq!(asked_again_in_a_stall(&mut engine, now, stall, 3, stamp), 0, "but their answers came");
    }
}

#[test]
fn without_a_tag_to_spare_a_request_is_waited_for_to_the_end() {
    let start = Instant::now();
    let mut engine = used_to_quick_answers(1, 1, start);
    let mut buf = [0; 8];
    let mut reads = [Read::new(PhysAddr::new(0x1000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let sent = batch.transmit(start).unwrap();
    while let Some(at) = batch.deadline().filter(|at| *at < start + TIMEOUT) {
        batch.expire(at);
    }
    assert!(batch.awaits(sent.tag));
    batch.receive(sent.tag, &answer(&request_of(&sent), 64, 0)[0], start + TIMEOUT / 2);
    drop(batch);
    assert!(reads[0].result == Ok(()) && is_right(&reads[0]));
    assert_eq!(engine.stats().timeouts, 0);
}

#[test]
fn the_window_opens_with_answers_and_closes_with_losses() {
    let mut engine = engine(256, 3);
    let mut buf = vec![0; 512 * 2000];
    let mut reads = [Read::new(PhysAddr::new(0x10_0000), &mut buf)];
    let mut batch = engine.batch(&mut reads);
    let mut now = Instant::now();
    let mut under_way = Vec::new();
    for lose in [false, false, false, false, true, false] {
        now += Duration::from_micros(20);
        let sent: Vec<Transmit> = std::iter::from_fn(|| batch.transmit(now)).collect();
        under_way.push(sent.len());
        for sent in sent.iter().skip(usize::from(lose)) {
            for frame in answer(&request_of(sent), 256, 0) {
                batch.receive(sent.tag, &frame, now + Duration::from_micros(20));
            }
        }
        if lose {
            now += TIMEOUT;
            batch.expire(now);
        }
    }
    drop(batch);
    assert_eq!(under_way, [16, 32, 64, 128, 256, 128]);
}
