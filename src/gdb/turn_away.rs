//! What a client is told that comes while another one is served.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::packet::{self, Decoder, Event};

/// How long the client may take to ask its first question, to read the answer, and to hang up.
const PATIENCE: Duration = Duration::from_secs(2);

const BUSY: &str =
    "another debugger is attached to this nettlp-gdb; it serves one at a time. Detach that one first";

/// Answers the client's first packet with the reason (GDB 13 prints an error reply to `qSupported`), or says it
/// unasked, and hangs up.
pub(super) async fn turn_away(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = timeout(PATIENCE, first_packet(&mut stream)).await;
    match timeout(PATIENCE, tell(&mut stream)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("turning away a client: {error}"),
        Err(_) => log::debug!("turning away a client: it did not listen"),
    }
    // Closing while it still sends could throw away what it has not read yet.
    let mut rest = [0; 1024];
    let _ = timeout(PATIENCE, async { while let Ok(1..) = stream.read(&mut rest).await {} }).await;
}

async fn first_packet(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 1024];
    while let len @ 1.. = stream.read(&mut buffer).await? {
        let mut events = buffer.iter().take(len).filter_map(|byte| decoder.push(*byte));
        if events.any(|event| matches!(event, Event::Packet(_))) {
            break;
        }
    }
    Ok(())
}

async fn tell(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let reply = packet::frame(&packet::error_text(BUSY));
    stream.write_all(&[b"+", reply.as_slice()].concat()).await?;
    stream.shutdown().await
}
