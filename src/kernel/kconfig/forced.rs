//! Cut lines that can be completed in one way only, whatever page the other half is in.
//!
//! `# CONFIG_SLUB i` goes on as `s not set`, and `CONFIG_SLUB=y` with a new line. `IG_SLUB=y` began as `CONF`, if `SLUB`
//! is an option that belongs before the next one of its page. `=100` may go on with any digit: that is not forced.

use super::{
    line::{Line, PREFIX},
    order::Order,
    run::Run,
};

/// What of `CONFIG_` must be seen: less of it may be the middle of a name.
const MIN_PREFIX: usize = 3;

/// The line at the end of `run`, if there is only one that begins so.
pub(super) fn end(run: &Run) -> Option<Vec<u8>> {
    let tail = std::str::from_utf8(run.tail()).ok()?;
    let setting = Line::parse(tail.as_bytes()).and_then(Line::setting);
    if setting.is_some_and(|setting| matches!(setting.value, None | Some("y" | "m"))) {
        return Some(tail.as_bytes().to_vec());
    }
    let (name, start) = tail.strip_prefix("# ")?.split_once(' ')?;
    let line = format!("# {name} is not set");
    ("is not set".starts_with(start) && Line::parse(line.as_bytes())?.setting().is_some())
        .then(|| line.into_bytes())
}

/// The line at the start of `run`, if there is only one that ends so.
pub(super) fn start(run: &Run, order: &Order) -> Option<Vec<u8>> {
    if !run.starts_page {
        return None;
    }
    let head = std::str::from_utf8(run.head()).ok()?;
    let next = run.settings().next()?.name;
    let prefixes = (0..=PREFIX.len() - MIN_PREFIX).filter_map(|cut| PREFIX.get(cut..));
    let rest =
        prefixes.filter_map(|seen| head.strip_prefix("# ").unwrap_or(head).strip_prefix(seen)).next()?;
    let hash = if rest.ends_with(" is not set") { "# " } else { "" };
    let line = format!("{hash}{PREFIX}{rest}");
    let name = Line::parse(line.as_bytes())?.setting()?.name;
    let belongs = order.distance(name, next).is_some() || order.is_next_seen(name, next);
    (line.ends_with(head) && order.knows(name) && belongs).then(|| line.into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::kconfig::run::runs;

    fn check(page: &str) -> (Option<String>, Option<String>) {
        let names = ["SLUB", "SMP", "NET"].map(str::to_owned);
        let found = runs(page.as_bytes());
        let run = found.runs.first().unwrap();
        let text = |line: Option<Vec<u8>>| line.map(|line| String::from_utf8(line).unwrap());
        (text(start(run, &Order::new(&names, &[]))), text(end(run)))
    }

    #[test]
    fn only_one_way() {
        let end = |tail: &str| check(&format!("x\nCONFIG_SMP=y\n{tail}")).1;
        let unset = Some("# CONFIG_SLUB is not set".to_owned());
        assert_eq!(end("# CONFIG_SLUB "), unset);
        assert_eq!(end("# CONFIG_SLUB is not set"), unset);
        assert_eq!(end("CONFIG_SLUB=m"), Some("CONFIG_SLUB=m".to_owned()));
        for open in [
            "# CONFIG_SLUB",
            "CONFIG_SLUB",
            "CONFIG_SLUB=",
            "CONFIG_SLUB=1",
            "CONFIG_SLUB=\"a\"",
            "# CON",
            "",
        ] {
            assert_eq!(end(open), None, "{open}");
        }

        let start = |head: &str| check(&format!("{head}\nCONFIG_SMP=y\nCONF")).0;
        assert_eq!(start("FIG_SLUB=y"), Some("CONFIG_SLUB=y".to_owned()));
        assert_eq!(start("CONFIG_SLUB is not set"), unset);
        assert_eq!(start("# CONFIG_SLUB is not set"), unset);
        assert_eq!(start("CONFIG_NET=y"), None, "NET comes after SMP");
        for open in ["G_SLUB=y", "FIG_UNKNOWN=y", "FIG_SL", "=y", " is not set", ""] {
            assert_eq!(start(open), None, "{open}");
        }
    }

    proptest! {
        #[test]
        fn any_page(page in "(CONFIG_|# | is not set|=|y|\n|A|\u{e9}){0,60}") {
            for run in runs(page.as_bytes()).runs {
                let order = Order::new(&["A".to_owned(), "AA".to_owned()], &[]);
                prop_assert!(start(&run, &order).is_none_or(|line| line.ends_with(run.head())));
                prop_assert!(end(&run).is_none_or(|line| line.starts_with(run.tail())));
            }
        }
    }
}
