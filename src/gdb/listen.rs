//! Where clients come from: addresses as users write them, and the sockets bound there.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where to wait for GDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP: `HOST:PORT`.
    Tcp(String),
    /// A Unix socket: `unix:PATH`.
    Unix(PathBuf),
    /// The process that started us: `target remote | nettlp-gdb serve --stdio ...`.
    Stdio,
}

/// Not a place to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a place to listen at: write HOST:PORT (such as 127.0.0.1:1234) or unix:PATH")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    /// Reads `HOST:PORT`, `:PORT` (on 127.0.0.1, as GDB takes it) or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        let bad = || ListenError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp(format!("{host}:{port}")))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Stdio => f.write_str("standard input and output"),
        }
    }
}

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another server has the address.
    #[error("{0} is in use: stop what listens there, or choose another place with --listen")]
    InUse(Listen),
    /// Listening is not possible there.
    #[error("cannot listen on {place}: {source}")]
    Bind {
        /// Where.
        place: Listen,
        /// Why not.
        source: io::Error,
    },
    /// The server cannot go on.
    #[error("the server cannot go on: {0}")]
    Io(#[from] io::Error),
}

/// Sockets that wait for clients.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Stdio,
}

impl Listener {
    pub(super) fn bind(listen: &Listen) -> Result<Self, ServeError> {
        let bound = match listen {
            Listen::Tcp(address) => TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }),
            Listen::Unix(path) => remove_stale(path).and_then(|()| {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener, path.clone()))
            }),
            Listen::Stdio => Ok(Self::Stdio),
        };
        bound.map_err(|source| match source.kind() {
            ErrorKind::AddrInUse => ServeError::InUse(listen.clone()),
            _ => ServeError::Bind { place: listen.clone(), source },
        })
    }

    /// The address bound, with the port the system chose for port 0.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) | Self::Stdio => None,
        }
    }
}

/// Removes the socket of a server that ended without removing it: one that nobody answers at.
fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |text: &str| text.parse::<Listen>().map(|listen| listen.to_string());
        assert_eq!(check("127.0.0.1:1234").unwrap(), "127.0.0.1:1234");
        assert_eq!(check(":1234").unwrap(), "127.0.0.1:1234");
        assert_eq!(check("[::1]:1234").unwrap(), "[::1]:1234");
        assert_eq!(check("unix:/tmp/gdb").unwrap(), "unix:/tmp/gdb");
        for bad in ["1234", "localhost", "host:port", "host:99999", "unix:", ""] {
            assert!(check(bad).unwrap_err().to_string().starts_with(&format!("`{bad}` is not a place")));
        }
    }

    #[test]
    fn a_place_in_use_is_said_in_one_sentence() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Listen::Tcp(taken.local_addr().unwrap().to_string());
        let error = Listener::bind(&place).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{place} is in use: stop what listens there, or choose another place with --listen")
        );
    }

    #[test]
    fn a_unix_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let place = Listen::Unix(directory.path().join("socket"));
        let first = Listener::bind(&place).unwrap();
        assert!(matches!(Listener::bind(&place), Err(ServeError::InUse(_))));
        drop(first);
        Listener::bind(&place).unwrap();
    }
}
