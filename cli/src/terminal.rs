//! What a terminal is like: how wide texts are on it, what it can show, and a screen that is drawn again in place.

use std::io::{self, IsTerminal, Write};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::tcgetwinsize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::error::Error;

/// What a terminal that doesn't say its size is taken for.
const SIZE: Size = Size { columns: 80, rows: 24 };

/// No narrower than this is drawn for: less shows nothing.
const COLUMNS_MIN: usize = 20;

/// How large a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// The size of the terminal that standard output is; `None` where it is none.
pub(crate) fn size() -> Option<Size> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    // Serial lines and some programs' terminals say 0.
    let said = tcgetwinsize(&out).ok().filter(|said| said.ws_col > 0 && said.ws_row > 0);
    let said = said.map_or(SIZE, |said| Size { columns: said.ws_col.into(), rows: said.ws_row.into() });
    Some(Size { columns: said.columns.max(COLUMNS_MIN), ..said })
}

/// A line, and how many columns it takes without its colours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) width: usize,
}

/// The characters that pictures are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glyphs {
    /// From nothing to the most.
    levels: [char; 8],
    /// Stands for what is left out.
    ellipsis: &'static str,
}

impl Glyphs {
    /// For terminals that show Unicode.
    pub(crate) const UNICODE: Glyphs =
        Glyphs { levels: ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'], ellipsis: "…" };

    /// For all others.
    pub(crate) const ASCII: Glyphs = Glyphs { levels: ['_', '.', ':', '-', '=', '+', '*', '#'], ellipsis: ".." };

    /// As the locale says.
    pub(crate) fn here() -> Glyphs {
        // In this order they decide about characters (POSIX, 8.2); an empty one counts as missing.
        let named = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        Glyphs::of_locale(named.as_deref().unwrap_or_default())
    }

    fn of_locale(name: &str) -> Glyphs {
        let name = name.to_ascii_lowercase();
        if name.contains("utf-8") || name.contains("utf8") { Glyphs::UNICODE } else { Glyphs::ASCII }
    }

    /// A line of one character for each value, the higher the more: the lowest stands for nothing and only for that, the highest
    /// for the most.
    pub(crate) fn sparkline(self, values: &[u64]) -> String {
        let most = values.iter().copied().max().unwrap_or(0);
        let highest = self.levels.len() as u128 - 1;
        let level = |value: u64| match value {
            0 => 0,
            // Rounded up: a little is more than nothing.
            value => (u128::from(value) * highest).div_ceil(u128::from(most)) as usize,
        };
        values.iter().map(|value| self.levels[level(*value)]).collect()
    }

    /// A text of at most `columns`: what is too much is left out in the middle, where names differ least.
    pub(crate) fn middle(self, text: &str, columns: usize) -> String {
        if width(text) <= columns {
            return text.to_owned();
        }
        let left = columns.saturating_sub(width(self.ellipsis));
        if left == 0 {
            return self.ellipsis.chars().take(columns).collect();
        }
        let head = taken(text.chars(), left.div_ceil(2));
        let back = taken(text.chars().rev(), left - width(&head));
        // What only changes the character before it has lost that.
        let tail: String = back.chars().rev().skip_while(|char| char.width().unwrap_or(0) == 0).collect();
        format!("{head}{}{tail}", self.ellipsis)
    }

    /// A text as it can be shown here: what an ASCII terminal doesn't have is replaced.
    pub(crate) fn shown(self, text: &str) -> String {
        match self {
            Glyphs::UNICODE => text.to_owned(),
            _ => {
                let text = text.replace('…', self.ellipsis);
                text.chars().map(|char| if char.is_ascii() { char } else { '?' }).collect()
            }
        }
    }
}

/// As many characters from the start as have room in `columns`.
fn taken(chars: impl Iterator<Item = char>, columns: usize) -> String {
    let mut taken = String::new();
    for char in chars {
        taken.push(char);
        if width(&taken) > columns {
            taken.pop();
            break;
        }
    }
    taken
}

/// How many columns a text takes. Terminals disagree about sequences that make one picture of several characters: the larger
/// figure counts.
pub(crate) fn width(text: &str) -> usize {
    let apart: usize = text.chars().map(|char| char.width().unwrap_or(0)).sum();
    apart.max(text.width())
}

/// A text in lines of at most `columns`, broken between words where that is possible.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    // The widest character takes two.
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        loop {
            let space = if line.is_empty() { "" } else { " " };
            if width(&line) + space.len() + width(&word) <= columns {
                line.push_str(space);
                line.push_str(&word);
                break;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
                continue;
            }
            let head = taken(word.chars(), columns);
            // A character that is wider than all there is: it stands alone.
            let cut = if head.is_empty() { word.chars().next().map_or(0, char::len_utf8) } else { head.len() };
            lines.push(word[..cut].to_owned());
            word = word[cut..].to_owned();
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Enters the alternate screen and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and goes back to what was there before.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal's other screen, for as long as this lives: drawn on in place, and left when it is dropped, whatever the reason.
pub(crate) struct Screen {
    /// Nothing but what was entered is left.
    entered: bool,
    /// How large it was when it was drawn on last.
    drawn: Option<Size>,
}

impl Screen {
    /// Enters it.
    pub(crate) fn enter() -> Result<Screen, Error> {
        let mut screen = Screen { entered: false, drawn: None };
        screen.write(ENTER)?;
        screen.entered = true;
        Ok(screen)
    }

    /// Shows these lines, each no wider than the terminal and no more than its rows. In one write, and each line over the one that
    /// was there, so that nothing flickers.
    pub(crate) fn draw(&mut self, lines: &[Line], size: Size) -> Result<(), Error> {
        // Terminals move lines about when they change their size.
        let again = if self.drawn.replace(size) == Some(size) { "" } else { "\x1b[H\x1b[J" };
        self.write(&format!("{again}{}", frame(lines, size)))
    }

    /// Leaves the terminal as it was, stops as ctrl-z wants it, and enters again when it goes on.
    pub(crate) fn suspend(&mut self) -> Result<(), Error> {
        self.leave();
        self.drawn = None;
        stop();
        self.write(ENTER)?;
        self.entered = true;
        Ok(())
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.entered) {
            // A terminal that is gone needs nothing.
            let _ = self.write(LEAVE);
        }
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Stops this process until somebody lets it go on.
pub(crate) fn stop() {
    if let Some(me) = Pid::from_raw(std::process::id() as i32) {
        // Only a process that isn't there can't be stopped.
        let _ = kill_process(me, Signal::STOP);
    }
}

/// What draws these lines over whatever stands there.
fn frame(lines: &[Line], size: Size) -> String {
    let mut text = String::from("\x1b[H");
    for (row, line) in lines.iter().take(size.rows).enumerate() {
        if row > 0 {
            text.push_str("\r\n");
        }
        text.push_str(&line.text);
        // After a full line the cursor still stands on its last character, which would be cleared.
        if line.width < size.columns {
            text.push_str("\x1b[K");
        }
    }
    if lines.len() < size.rows {
        text.push_str(if lines.is_empty() { "\x1b[J" } else { "\r\n\x1b[J" });
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Glyphs; 2] = [Glyphs::UNICODE, Glyphs::ASCII];

    #[test]
    fn a_sparkline_shows_nothing_little_and_most() {
        assert_eq!(Glyphs::UNICODE.sparkline(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(Glyphs::ASCII.sparkline(&[0, 1, 50, 100]), "_.=#");
        assert_eq!(Glyphs::UNICODE.sparkline(&[0, 0]), "▁▁");
        assert_eq!(Glyphs::UNICODE.sparkline(&[u64::MAX, 1]), "█▂");
        assert_eq!(Glyphs::UNICODE.sparkline(&[]), "");
    }

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(Glyphs::UNICODE.middle("warehouse-north-1", 9), "ware…th-1");
        assert_eq!(Glyphs::ASCII.middle("warehouse-north-1", 9), "ware..h-1");
        assert_eq!(Glyphs::UNICODE.middle("short", 5), "short");
        // Each of these takes two columns, and half of one can't be shown.
        assert_eq!(Glyphs::UNICODE.middle("東京支店の顧客名簿", 9), "東京…名簿");
        assert_eq!(Glyphs::UNICODE.middle("東京支店の顧客名簿", 8), "東京…簿");
        assert_eq!(Glyphs::UNICODE.middle("long", 1), "…");
        assert_eq!(Glyphs::UNICODE.middle("long", 0), "");
    }

    #[test]
    fn the_locale_says_what_can_be_shown() {
        for name in ["C.UTF-8", "de_DE.utf8", "en_US.UTF-8@x"] {
            assert_eq!(Glyphs::of_locale(name), Glyphs::UNICODE, "{name}");
        }
        for name in ["", "C", "POSIX", "de_DE", "ja_JP.eucJP"] {
            assert_eq!(Glyphs::of_locale(name), Glyphs::ASCII, "{name}");
        }
        assert_eq!(Glyphs::ASCII.shown("naïve 東 …"), "na?ve ? ..");
    }

    #[test]
    fn words_stay_whole_where_they_have_room() {
        assert_eq!(wrapped("the disk is full", 9), ["the disk", "is full"]);
        assert_eq!(wrapped("/a/very/long/path is", 8), ["/a/very/", "long/pat", "h is"]);
        assert_eq!(wrapped("東京支店", 5), ["東京", "支店"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn a_frame_clears_what_was_there_and_never_a_lines_last_character() {
        let size = Size { columns: 4, rows: 3 };
        let line = |text: &&str| Line { text: (*text).to_owned(), width: width(text) };
        let lines = |lines: &[&str]| lines.iter().map(line).collect::<Vec<_>>();
        assert_eq!(frame(&lines(&["ab", "abcd"]), size), "\x1b[Hab\x1b[K\r\nabcd\r\n\x1b[J");
        assert_eq!(frame(&[], size), "\x1b[H\x1b[J");
        assert_eq!(frame(&lines(&["a", "b", "c", "d"]), size), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\nc\x1b[K");
    }

    proptest! {
        #[test]
        fn sparklines_are_laws(values in prop::collection::vec(any::<u64>(), 0..40), scale in 1u64..1000) {
            for glyphs in BOTH {
                let line: Vec<char> = glyphs.sparkline(&values).chars().collect();
                prop_assert_eq!(line.len(), values.len());
                let level = |char: &char| glyphs.levels.iter().position(|level| level == char).expect("it is a level");
                let most = values.iter().copied().max().unwrap_or(0);
                for (value, char) in values.iter().zip(&line) {
                    prop_assert_eq!(*value == 0, level(char) == 0);
                    if *value == most && most > 0 {
                        prop_assert_eq!(level(char), 7);
                    }
                    for (other, other_char) in values.iter().zip(&line) {
                        prop_assert!(value > other || level(char) <= level(other_char));
                    }
                }
                // Only proportions count.
                let small: Vec<u64> = values.iter().map(|value| value % 1_000_000).collect();
                let scaled: Vec<u64> = small.iter().map(|value| value * scale).collect();
                prop_assert_eq!(glyphs.sparkline(&small), glyphs.sparkline(&scaled));
            }
        }

        #[test]
        fn nothing_is_wider_than_its_room(text in "\\PC{0,40}", columns in 0usize..30) {
            for glyphs in BOTH {
                let short = glyphs.middle(&text, columns);
                prop_assert!(width(&short) <= columns, "{:?} takes {}", short, width(&short));
                prop_assert!(width(&text) > columns || short == text);
            }
            for line in wrapped(&text, columns) {
                prop_assert!(width(&line) <= columns.max(2), "{:?}", line);
            }
        }
    }
}
