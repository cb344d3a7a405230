//! Which tasks GDB is shown as threads.

use std::{convert::Infallible, str::FromStr};

/// Which tasks are threads, besides what each CPU runs: that always is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ThreadFilter {
    /// None.
    Cpus,
    /// Every task.
    #[default]
    All,
    /// Those whose `comm` matches a pattern: `*` stands for any characters, `?` for one.
    Comm(String),
}

impl FromStr for ThreadFilter {
    type Err = Infallible;

    /// Reads `cpus`, `all` or a pattern.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "cpus" => Self::Cpus,
            "all" => Self::All,
            pattern => Self::Comm(pattern.to_owned()),
        })
    }
}

impl ThreadFilter {
    /// Whether a task with this `comm` is a thread although it is on no CPU.
    #[must_use]
    pub fn accepts(&self, comm: &str) -> bool {
        match self {
            Self::Cpus => false,
            Self::All => true,
            Self::Comm(pattern) => matches(pattern, comm),
        }
    }
}

/// Whether `text` as a whole is what `pattern` describes. Linear in either, whatever the number of stars: only the last
/// star met ever has to take more.
fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // The pattern behind the last star, and the text it has not taken.
    let mut star = None;
    loop {
        let before = text.clone();
        match (pattern.next(), text.next()) {
            (Some('*'), _) => {
                star = Some((pattern.clone(), before.clone()));
                text = before;
            }
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {}
            _ => {
                let Some((after, left)) = &mut star else { return false };
                if left.next().is_none() {
                    return false;
                }
                (pattern, text) = (after.clone(), left.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let matching = |pattern: &str, names: &[&str]| {
            names
                .iter()
                .filter(|name| matches(pattern, name))
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let names = ["sshd", "kworker/0:1", "kworker/1:1H", "ssh-agent", ""];
        assert_eq!(matching("ssh*", &names), ["sshd", "ssh-agent"]);
        assert_eq!(matching("kworker/?:1", &names), ["kworker/0:1"]);
        assert_eq!(matching("*1*", &names), ["kworker/0:1", "kworker/1:1H"]);
        assert_eq!(matching("*a*e*t", &names), ["ssh-agent"]);
        assert_eq!(matching("sshd", &names), ["sshd"]);
        assert_eq!(matching("", &names), [""]);
        assert_eq!(matching("*", &names).len(), 5);
        assert_eq!(matching("?", &names), [""; 0]);
    }

    #[test]
    fn which_tasks_pass() {
        let ssh: ThreadFilter = "ssh*".parse().unwrap();
        assert!(ssh.accepts("sshd") && !ssh.accepts("cron"));
        let cpus: ThreadFilter = "cpus".parse().unwrap();
        assert!(!cpus.accepts("sshd"));
        let all: ThreadFilter = "all".parse().unwrap();
        assert!(all == ThreadFilter::default() && all.accepts("anything"));
    }

    #[test]
    fn stars_do_not_multiply() {
        assert!(!matches(&"*a".repeat(1000), &"a".repeat(900)));
    }
}
