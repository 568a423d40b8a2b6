//! Which nats-servers serve.

/// The oldest version with batched direct get and what else is used here.
const MIN: (u64, u64) = (2, 14);

/// The same, for messages.
pub(crate) const MIN_TEXT: &str = "2.14";

/// Whether a server of this version serves.
pub(crate) fn serves(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(serves("2.14.0") && serves("2.15.1") && serves("3.0.0") && serves("2.14.0-beta.1"));
        assert!(!serves("2.9.10") && !serves("2.13.9") && !serves("") && !serves("junk"));
    }
}
