//! Content lines: what vCard (2.1, RFC 2426, RFC 6350), vCalendar and iCalendar (RFC 5545) are made of.
//!
//! ```text
//! item1.TEL;TYPE=home,voice;PREF=1:+47 22 …      group . name ; parameters : value
//! ```
//!
//! A file is physical lines; each *logical* line is one of them and those that continue it. Nothing here interprets a
//! value or loses a byte: a [`Span`] says where a logical line stands, [`Events`] walks the spans and checks that `BEGIN`
//! and `END` pair up, [`Line`] takes one apart, and [`Splice`] puts other bytes in place of some spans and leaves all else
//! as it is (line ends, folds, blank lines, order, the case of names).
//!
//! | subject | module |
//! |---|---|
//! | logical lines, line ends, folds, positions | `span` |
//! | groups, names, parameters (RFC 6868), `CHARSET` | `line` |
//! | `BEGIN` and `END` | `component` |
//! | text escapes, lists, quoted-printable, base64 | `text`, `transfer` |
//! | folding, parameters and splicing on the way out | `write` |
//! | the encoding of a whole file, character sets | `charset` |

mod charset;
mod component;
mod line;
mod span;
mod text;
mod transfer;
mod write;

pub(crate) use charset::{FileEncoding, FileForm, decode as charset_decode, encode as charset_encode};
pub(crate) use component::{Event, Events};
pub(crate) use line::{Charsets, Line, is_name};
pub(crate) use span::{Fold, Span, Spans, line_ending, place};
pub(crate) use text::{escape, split, unescape};
pub(crate) use transfer::{base64_decode, base64_encode, qp_decode, qp_encode};
pub(crate) use write::{Splice, fold, parameter, soft_break};

/// How deep components may nest; iCalendar needs 3, an agent's card in a card a few more.
pub(crate) const DEPTH_MAX: usize = 32;

/// How long a logical line may be: far beyond any photo that a card carries, and a bound for what a cut-off file can glue
/// together.
pub(crate) const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How many parameters one line may have; real ones have a handful.
pub(crate) const PARAMETERS_MAX: usize = 1024;

/// How long a physical line should be at most, without its end (RFC 6350, 3.2; RFC 5545, 3.1).
pub(crate) const FOLD_OCTETS: usize = 75;

/// What is wrong with some bytes, and at which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The offset in what was given; [`place`] makes line and column of it.
    pub(crate) at: usize,
    /// What is wrong, for people.
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(at: usize, text: impl Into<String>) -> Problem {
        Problem { at, text: text.into() }
    }
}
