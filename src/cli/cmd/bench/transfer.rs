//! Rates of the bare link: bulk reads, and single words.

use std::time::Instant;

use anyhow::{Context, bail};

use super::{Args, child::Other, echo::Echo, median, table::Row};
use crate::{
    addr::{PhysAddr, PhysRange},
    link::{self, Client, Read},
    mem::file::{ImageFile, ImageSpec},
};

/// Reads of one batch, as a dump has them.
const READ: usize = 64 << 10;
const READS: usize = 4;
/// What a request carries at the usual MRRS.
const REQUEST: usize = 512;
/// Words read at random for a rate, one after the other and all together.
const WORDS: usize = 2000;

pub(super) fn client(other: &Other, tags: u16) -> anyhow::Result<Client> {
    let config = link::Config { local: Some(other.local), tags, ..link::Config::new(other.ip) };
    Ok(Client::connect(&config)?)
}

/// Runs `work` with a link of `tags` tags. One link at a time: each has all the ports.
fn with_client(
    other: &Other,
    tags: u16,
    work: impl FnOnce(&Client) -> anyhow::Result<f64>,
) -> anyhow::Result<f64> {
    work(&client(other, tags)?)
}

/// Reads `bytes` of `range` as a dump does; MiB/s.
fn bulk(client: &Client, range: PhysRange, bytes: u64) -> anyhow::Result<f64> {
    let mut buffers = vec![vec![0; READ]; READS];
    let (mut done, start) = (0, Instant::now());
    while done < bytes {
        let mut at = range.start.wrapping_add((done % (range.len() / 2).max(1)) & !0xfff);
        let mut reads: Vec<Read<'_>> = Vec::with_capacity(READS);
        for buffer in &mut buffers {
            reads.push(Read::new(at, buffer));
            at = at.wrapping_add(READ as u64);
        }
        client.read_batch(&mut reads);
        for read in reads {
            read.result?;
            done += READ as u64;
        }
    }
    Ok(done as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64())
}

/// Addresses of words all over `range`, always the same.
fn words(range: PhysRange) -> impl Iterator<Item = PhysAddr> {
    let place = move |n: u64| {
        range.start.wrapping_add(((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % (range.len() - 8)) & !7)
    };
    (1..=WORDS as u64).map(place)
}

/// Reads words, `together` in one batch; thousands a second.
fn random(client: &Client, range: PhysRange, together: usize) -> anyhow::Result<f64> {
    let mut buffers = vec![[0; 8]; together];
    let (addrs, start) = (words(range).collect::<Vec<_>>(), Instant::now());
    for addrs in addrs.chunks(together) {
        let mut reads: Vec<Read<'_>> =
            addrs.iter().zip(&mut buffers).map(|(addr, buffer)| Read::new(*addr, buffer)).collect();
        client.read_batch(&mut reads);
        reads.into_iter().try_for_each(|read| read.result)?;
    }
    Ok(WORDS as f64 / 1000.0 / start.elapsed().as_secs_f64())
}

/// The rows of one latency.
pub(super) fn measure(args: &Args, images: &[ImageSpec], latency: u64) -> anyhow::Result<Vec<Row>> {
    let ranges = ImageFile::open(images)?.ranges();
    let range = *ranges.iter().max_by_key(|range| range.len()).context("the images hold nothing")?;
    if range.len() < 4 * (READ * READS) as u64 {
        bail!("{range} is too little to measure with: at least 1 MiB in one piece");
    }
    let adapter = Other::adapter(&args.image, latency)?;
    let echo = Echo::start()?;
    // One at a time is slow: less of it is enough.
    let few = (args.transfer / 8).max(1 << 20);
    let requests = (args.transfer / REQUEST as u64) as usize;
    let [mut ours, mut single, mut bare, mut word, mut apart] = [const { Vec::new() }; 5];
    for _ in 0..args.rounds {
        ours.push(with_client(&adapter, args.tags, |client| bulk(client, range, args.transfer))?);
        single.push(with_client(&adapter, 1, |client| bulk(client, range, few))?);
        let took = echo.exchange(requests, args.tags.into())?;
        bare.push((requests * REQUEST) as f64 / f64::from(1 << 20) / took.as_secs_f64());
        word.push(with_client(&adapter, args.tags, |client| random(client, range, 512))?);
        apart.push(with_client(&adapter, 1, |client| random(client, range, 1))?);
    }
    let dump = median(ours);
    let words = Row::rates(latency, "random 8-byte reads", "k/s", median(word));
    let mut rows = vec![
        Row::rates(latency, "dump", "MiB/s", dump).against("one read at a time", median(single)),
        words.against("one read at a time", median(apart)),
    ];
    if latency == 0 {
        let row = Row::rates(latency, "dump", "MiB/s", dump);
        rows.insert(1, row.against("bare UDP loop, same datagrams", median(bare)));
    }
    Ok(rows)
}
