//! File formats: each one file of many records.

pub(crate) mod content_line;
pub(crate) mod csv;
pub(crate) mod file_set;
pub(crate) mod icalendar;
pub(crate) mod json;
pub(crate) mod vcard;
pub(crate) mod wanted;
