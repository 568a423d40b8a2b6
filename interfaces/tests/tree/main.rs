//! Directory trees: what is read, what is written, and what nobody can make them do.

mod support;

mod reading;
mod writing;
