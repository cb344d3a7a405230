//! A conversation without sockets: reads served from given datagrams, in virtual time.
//!
//! What an adapter sent once, or what somebody made up, meets the same engine that the sockets feed. Nothing is sent
//! and nothing is waited for: when no datagram is left, time passes at once.

use std::time::Instant;

use super::{
    Config, LinkError, LinkStats, Read,
    engine::{Engine, Settings},
};

/// What arrives: the tag to whose port it comes, and the datagram.
pub type Arrivals = Vec<(u8, Vec<u8>)>;

/// Serves `reads`. `answer` is given each request's tag and datagram, and returns what then arrives. Returns what the link counted.
///
/// # Errors
/// [`LinkError::RequesterUnknown`] when `config` has none.
pub fn replay(
    config: &Config,
    reads: &mut [Read<'_>],
    answer: &mut dyn FnMut(u8, &[u8]) -> Arrivals,
) -> Result<LinkStats, LinkError> {
    let mut engine = Engine::new(Settings {
        requester: config.requester.ok_or(LinkError::RequesterUnknown)?,
        tags: config.tags,
        mrrs: config.mrrs,
        timeout: config.timeout,
        retries: config.retries,
    });
    let mut batch = engine.batch(reads);
    let mut now = Instant::now();
    loop {
        batch.expire(now);
        let mut arrived = Vec::new();
        while let Some(request) = batch.transmit(now) {
            arrived.extend(answer(request.tag, request.datagram()));
        }
        if batch.is_done() {
            break;
        }
        if arrived.is_empty() {
            now = batch.deadline().map_or(now, |deadline| deadline.max(now));
        }
        for (tag, datagram) in arrived {
            batch.receive(tag, &datagram, now);
        }
    }
    drop(batch);
    Ok(engine.stats())
}
