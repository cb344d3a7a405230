use super::*;
use crate::{
    link::LinkError,
    mem::{PhysWrite, sparse::Sparse, stats::Stats},
};

#[test]
fn one_fetch_per_sector_until_invalidated() {
    let cache = Cache::new(Stats::new(Sparse::new(["0-0x1100".parse().unwrap()]), SECTOR), Validity::Stop);
    let read = |addr: u64, len: usize| {
        let mut bytes = vec![0; len];
        cache.read(PhysAddr::new(addr), &mut bytes).map(|()| bytes)
    };
    let ram = || cache.inner().inner();
    ram().write(PhysAddr::new(0x1f8), &[1; 16]).unwrap();
    assert_eq!(read(0x1fc, 8).unwrap(), [1; 8], "a read over two sectors");
    assert_eq!(read(0x10, 1).unwrap(), [0]);
    assert_eq!(cache.inner().counts().requests, 2);
    ram().write(PhysAddr::new(0x1f8), &[2; 16]).unwrap();
    assert_eq!(read(0x1f8, 1).unwrap(), [1], "cached");
    cache.invalidate();
    assert_eq!(read(0x1f8, 1).unwrap(), [2]);

    assert_eq!(read(0x10f8, 8).unwrap(), [0; 8], "the sector is cut by the end of RAM, the read is not");
    let error = read(0x10fc, 8).unwrap_err();
    assert_eq!((error.addr.raw(), error.len), (0x10fc, 8), "the error is of the read, not of the sector");
    assert!(read(u64::MAX - 3, 4).is_err());
}

type Counted = Cache<Stats<Sparse>>;

fn over(ram: &str, validity: Validity) -> Counted {
    Cache::new(Stats::new(Sparse::new([ram.parse().unwrap()]), SECTOR), validity)
}

fn ask(cache: &Counted, addr: u64, now: Instant) -> u64 {
    let before = cache.inner().counts().requests;
    cache.touch(now);
    cache.fill(&sectors([(PhysAddr::new(addr), 8)].into_iter()), now);
    cache.inner().counts().requests - before
}

#[test]
fn a_page_read_twice_is_fetched_whole_and_only_once_if_that_fails() {
    let cache = over("0-0x1a00", Validity::Stop);
    let now = Instant::now();
    assert_eq!(ask(&cache, 0x0, now), 1, "who reads one word may want no more");
    assert_eq!(ask(&cache, 0x208, now), 7);
    assert_eq!(ask(&cache, 0xff8, now), 0);
    assert_eq!((ask(&cache, 0x1000, now), ask(&cache, 0x1200, now)), (1, 7), "some of them are not there");
    assert_eq!((ask(&cache, 0x1400, now), ask(&cache, 0x1600, now)), (1, 1), "and are not asked for again");
    assert_eq!(ask(&cache, 0x1000, now), 0);
    cache.state().round_trip = DEAR;
    cache.invalidate();
    assert_eq!((ask(&cache, 0x400, now), ask(&cache, 0x0, now)), (8, 0), "a round trip is dear");
}

/// A timeout costs seconds.
#[test]
fn what_failed_is_asked_for_again_only_where_less_may_succeed() {
    struct Unanswered(fn(PhysAddr, usize) -> LinkError);
    impl PhysMem for Unanswered {
        fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
            for op in ops {
                let error = (self.0)(op.addr, op.buf.len());
                op.fail(Fault::Link(error));
            }
        }
    }
    let timeout = |addr, len| LinkError::Timeout { addr, len, attempts: 4 };
    let silent = |addr, len| LinkError::Silent { addr, len };
    for error in [timeout, silent] {
        let cache = Cache::new(Stats::new(Unanswered(error), SECTOR), Validity::Stop);
        cache.read(PhysAddr::new(0x1010), &mut [0; 8]).unwrap_err();
        assert_eq!(cache.inner().counts().requests, 1);
    }
    let holey = over("0-0x1100", Validity::Stop);
    for (addr, len, asked) in [(0x2000, 512, 1), (0x2200, 8, 3), (0x1000, 8, 5)] {
        let _ = holey.read(PhysAddr::new(addr), &mut vec![0; len]);
        assert_eq!(holey.inner().counts().requests, asked, "{addr:#x}");
    }
}

#[test]
fn more_pages_than_there_is_room_for_go_past() {
    let cache = over("0-64M", Validity::Stop);
    let mut bytes = vec![[1; 8]; MAX_PAGES + 1];
    let places = (0..).step_by(PAGE_SIZE as usize).map(PhysAddr::new);
    let mut ops: Vec<_> = places.zip(&mut bytes).map(|(at, bytes)| ReadOp::new(at, bytes)).collect();
    for (count, kept) in [(MAX_PAGES + 1, 0), (MAX_PAGES, MAX_PAGES), (1, MAX_PAGES)] {
        cache.read_batch(&mut ops[..count]);
        assert_eq!(cache.state().pages.len(), kept);
    }
    assert_eq!(cache.inner().counts().requests as usize, 2 * MAX_PAGES + 1, "each once");
}

#[test]
fn a_pause_ends_what_was_read_and_so_does_age() {
    let pause = Duration::from_secs(100);
    let cache = over("0-1M", Validity::Pause(pause));
    let start = Instant::now();
    let at = |tenths: u32| start + pause * tenths / 10;
    assert_eq!((ask(&cache, 0, at(0)), ask(&cache, 0, at(9)), ask(&cache, 0, at(18))), (1, 0, 0));
    assert_eq!((ask(&cache, 0, at(29)), ask(&cache, 0, at(30))), (1, 0), "a pause");
    let asked: u64 = (30..140).step_by(5).map(|tenths| ask(&cache, 0, at(tenths))).sum();
    assert_eq!(asked, 1, "without a pause, after ten times as long");
}

#[test]
fn a_picture_that_begins_as_an_earlier_one_is_fetched_at_once() {
    let pause = Duration::from_secs(1000);
    let cache = over("0-1M", Validity::Pause(pause));
    let mut now = Instant::now();
    let mut batches = |places: &[u64]| {
        now += pause;
        let before = cache.inner().counts().batches;
        let (first, rest) = places.split_first().unwrap();
        cache.prefetch_at(now, &[PhysRange::with_len(PhysAddr::new(*first), 8).unwrap()]);
        for addr in rest {
            cache.read_at(now, &mut [ReadOp::new(PhysAddr::new(*addr), &mut [0; 8])]);
        }
        (cache.inner().counts().batches - before, cache.surprises())
    };
    let (list, other) = ([0x0, 0x1000, 0x5000, 0x9000], [0x600, 0x5000, 0x1000]);
    assert_eq!(batches(&list), (4, 4));
    assert_eq!(batches(&other), (3, 7));
    assert_eq!(batches(&list), (1, 7));
    assert_eq!(batches(&[0x0, 0x1000, 0xa000]), (2, 8), "it has changed since");
    cache.invalidate();
    assert_eq!(batches(&list), (4, 12), "nothing is left of what was before");
}

#[test]
fn what_is_constant_holds_longer_than_the_rest() {
    let pause = Duration::from_secs(1);
    let cache = over("0-1M", Validity::Pause(pause));
    cache.hold("0x1000-0x2800".parse().unwrap());
    cache.hold("0x8000-0x9000".parse().unwrap());
    let start = Instant::now();
    let round = |now| [0x0, 0x1000, 0x2000, 0x8000].map(|addr| ask(&cache, addr, now));
    assert_eq!(round(start), [1, 1, 1, 1]);
    assert_eq!(round(start + pause * 2), [1, 0, 1, 0], "only whole pages are constant");
    cache.invalidate();
    assert_eq!(round(start + pause * 2), [1, 1, 1, 1]);
}
