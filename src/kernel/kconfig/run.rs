//! Runs: the parts of one page that are text of a configuration file.
//!
//! Input: the bytes of one page. Output: its runs of lines that all can stand in such a file. A run that reaches an
//! edge of the page may begin or end with a cut line. Pure; knows nothing of other pages.

use std::ops::Range;

use memchr::memmem;

use super::line::{Line, PREFIX, Setting, header_version, is_fragment};

/// Fewer options in a row are no file but somebody's text about one.
const MIN_OPTIONS: usize = 8;

/// Lines of a configuration file that stand together in one page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    text: Vec<u8>,
    /// The whole lines, newlines included, in `text`.
    whole: Range<usize>,
    /// Whether the run begins with the page, so that its head may be the end of a line.
    pub starts_page: bool,
    /// Whether the run ends with the page, so that its tail may be the start of a line.
    pub ends_page: bool,
    /// Whether zeros follow to the end of the page, as after the last byte of a file.
    pub ends_file: bool,
}

impl Run {
    /// What stands before the first newline of the page: the end of a line, or a whole one. Empty unless
    /// [`Run::starts_page`].
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.text.get(..self.whole.start).unwrap_or_default().trim_ascii_end_newline()
    }

    /// What stands after the last newline of the page. Empty unless [`Run::ends_page`].
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        self.text.get(self.whole.end..).unwrap_or_default()
    }

    /// The whole lines, each with its newline.
    #[must_use]
    pub fn whole(&self) -> &[u8] {
        self.text.get(self.whole.clone()).unwrap_or_default()
    }

    /// The options of the whole lines, in order.
    pub fn settings(&self) -> impl DoubleEndedIterator<Item = Setting<'_>> {
        self.whole().split(|byte| *byte == b'\n').filter_map(|line| Line::parse(line)?.setting())
    }

    /// The version in the header line, if it is here: a file has it in its third line.
    #[must_use]
    pub fn header(&self) -> Option<&str> {
        let lines = self.whole().split(|byte| *byte == b'\n').take(4);
        lines.chain([self.head()]).find_map(header_version)
    }

    /// Whether the file begins here: its header is here, and nothing but it and `#` lines before the first option.
    #[must_use]
    pub fn starts_file(&self) -> bool {
        self.header().is_some() && (!self.starts_page || self.head() == b"#")
    }
}

trait TrimNewline {
    fn trim_ascii_end_newline(&self) -> &[u8];
}

impl TrimNewline for [u8] {
    fn trim_ascii_end_newline(&self) -> &[u8] {
        self.strip_suffix(b"\n").unwrap_or(self)
    }
}

/// What one page holds of configuration files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Runs long enough to be of a file.
    pub runs: Vec<Run>,
    /// Options outside of them.
    pub stray: usize,
}

/// The runs in one `page`.
#[must_use]
pub fn runs(page: &[u8]) -> Found {
    let mut found = Found::default();
    if memmem::find(page, PREFIX.as_bytes()).is_none() {
        return found;
    }
    let Some(first) = memchr::memchr(b'\n', page) else { return found };
    let mut open: Option<Range<usize>> = None;
    let mut at = first + 1;
    while let Some(len) = page.get(at..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let end = at + len + 1;
        if page.get(at..end - 1).and_then(Line::parse).is_some() {
            open = Some(open.map_or(at, |run| run.start)..end);
        } else if let Some(run) = open.take() {
            found.add(page, run, first + 1, false);
        }
        at = end;
    }
    // A file may end in its first line here: then the run has no whole line and only a head.
    let run = open.unwrap_or(at..at);
    found.add(page, run, first + 1, true);
    found
}

impl Found {
    /// Adds the run of whole lines in `range`. `first` is where the first whole line of the page begins, `last` says
    /// that no whole line follows in the page.
    fn add(&mut self, page: &[u8], range: Range<usize>, first: usize, last: bool) {
        let (mut start, mut end) = (range.start, range.end);
        let head = page.get(..start.saturating_sub(1)).unwrap_or_default();
        let starts_page = start == first && is_fragment(head);
        if starts_page {
            start = 0;
        }
        let rest = page.get(end..).unwrap_or_default();
        let ends_file = last && !rest.is_empty() && rest.iter().all(|byte| *byte == 0);
        let ends_page = last && !ends_file && is_fragment(rest);
        if ends_page {
            end = page.len();
        }
        let text = page.get(start..end).unwrap_or_default().to_vec();
        let whole = range.start - start..range.end - start;
        let run = Run { text, whole, starts_page, ends_page, ends_file };
        let options = run.settings().count();
        let whole_file_end = starts_page && ends_file && !run.whole().is_empty();
        if options >= MIN_OPTIONS || (options > 0 && (whole_file_end || starts_page && ends_page)) {
            self.runs.push(run);
        } else {
            self.stray += options;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page's runs as text: `head|whole lines|tail`, then its edges.
    fn check(page: &[u8]) -> Vec<String> {
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\n', ",");
        runs(page)
            .runs
            .iter()
            .map(|run| {
                let edges = [(run.starts_page, " start"), (run.ends_page, " end"), (run.ends_file, " eof")];
                let edges: String = edges.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
                format!("{}|{}|{}{edges}", show(run.head()), show(run.whole()), show(run.tail()))
            })
            .collect()
    }

    #[test]
    fn a_page_of_a_file_has_two_cut_lines() {
        let page = b"IG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_D";
        assert_eq!(check(page), ["IG_A=y|CONFIG_B=y,# CONFIG_C is not set,|CONFIG_D start end"]);
        assert_eq!(check(b"A=y\nCONFIG_B=y\n\0\0\0"), ["A=y|CONFIG_B=y,| start eof"]);
    }

    #[test]
    fn what_is_not_text_ends_a_run() {
        let lines = |name: &str| (0..8).map(|n| format!("CONFIG_{name}{n}=y\n")).collect::<String>();
        let page = format!("\u{1}x=y\n{}CONF\u{1}=y\n{}CONFIG_C=\0y", lines("A"), lines("B"));
        let whole = |name: &str| lines(name).replace('\n', ",");
        assert_eq!(check(page.as_bytes()), [format!("|{}|", whole("A")), format!("|{}|", whole("B"))]);
        assert_eq!(runs(b"\x01\nCONFIG_A=y\n\x01\n"), Found { runs: vec![], stray: 1 });
    }

    #[test]
    fn the_header_is_seen() {
        let text = b"#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 6.1.1 Kernel Configuration\n#\nCONFIG_A=y\n";
        let found = runs(text);
        let run = found.runs.first().unwrap();
        assert_eq!((run.header(), run.starts_file()), (Some("6.1.1"), true));
    }

    proptest! {
        #[test]
        fn any_page_is_cut_without_loss(page in "(CONFIG_|# | is not set|=|y|\n|\0|A|B|\u{e9}){0,400}") {
            for run in runs(page.as_bytes()).runs {
                let mut text = run.head().to_vec();
                if run.starts_page {
                    text.push(b'\n');
                }
                text.extend_from_slice(run.whole());
                text.extend_from_slice(run.tail());
                prop_assert_eq!(&text, &run.text);
                prop_assert!(memmem::find(page.as_bytes(), &text).is_some());
            }
        }

        #[test]
        fn any_bytes_do(page in prop::collection::vec(any::<u8>(), 0..400)) {
            let found = runs(&[b"CONFIG_A=y\n", &*page].concat());
            prop_assert!(found.runs.len() <= 1);
        }
    }
}
