//! File formats: each one file of many records.
