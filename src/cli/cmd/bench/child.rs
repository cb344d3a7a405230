//! The other process of a measurement: this program, being an adapter or an echo.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::{Context, bail};

/// Runs until dropped.
pub(super) struct Other {
    child: Child,
    /// Where it answers.
    pub(super) ip: IpAddr,
    /// An address beside it, for who asks.
    pub(super) local: IpAddr,
}

impl Other {
    /// Starts this program with what `arguments` makes of an address nobody else uses, and waits for its first line.
    pub(super) fn start(arguments: impl FnOnce(IpAddr) -> Vec<String>) -> anyhow::Result<Self> {
        let (ip, local) = addresses();
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .args(arguments(ip))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start this program once more")?;
        let mut line = String::new();
        if let Some(stderr) = child.stderr.take() {
            BufReader::new(stderr).read_line(&mut line).context("cannot hear of the other process")?;
        }
        let other = Self { child, ip, local };
        if !line.contains("answers") {
            bail!("the other process did not start: {}", line.trim_end());
        }
        Ok(other)
    }

    /// An adapter over images, which takes `latency` microseconds.
    pub(super) fn adapter(images: &[String], latency: u64) -> anyhow::Result<Self> {
        Self::start(|ip| {
            let images = images.iter().flat_map(|image| ["--image".to_owned(), image.clone()]);
            ["emulate".to_owned()]
                .into_iter()
                .chain(images)
                .chain(["--ip".to_owned(), ip.to_string(), "--latency-us".to_owned(), latency.to_string()])
                .collect()
        })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two addresses on loopback that are this process's own: both ends of a link use the same ports.
fn addresses() -> (IpAddr, IpAddr) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let first = (NEXT.fetch_add(1, Relaxed) % 120) as u8 * 2 + 4;
    let address = |last| Ipv4Addr::new(127, 128 | high & 0x3f, low, last).into();
    (address(first), address(first + 1))
}
