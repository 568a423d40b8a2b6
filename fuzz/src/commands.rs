//! What people type: locations, configurations, filters.

use deltabus_certificates::Token;
use deltabus_interfaces::{Location, open};
use deltabus_receiver::Filter;
use deltabus_record::row::Row;
use deltabus_record::schema::{Field, KeySpec, Schema};

use crate::input::Input;

/// A location.
pub(crate) fn location(bytes: &[u8]) {
    let Ok(given) = std::str::from_utf8(bytes) else { return };
    let location = match Location::parse(given) {
        Ok(location) => location,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let shown = location.to_string();
    assert_eq!(location.is_url(), location.interface == "postgres");
    if location.password().is_none() {
        let again = Location::parse(&shown).expect("what is shown is a location");
        assert_eq!(again.to_string(), shown);
        assert_eq!(
            (again.interface, again.path, again.options),
            (location.interface.clone(), location.path.clone(), location.options.clone())
        );
    }
    let _ = location.place();
    // Opens nothing yet; a folder of this machine may be asked whether it is one.
    match open(&location) {
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A token that lets in to a bus or a manager.
pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Token>() {
        Ok(token) => assert_eq!(token.reveal(), text.trim()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A configuration file of either kind.
pub(crate) fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        deltabus::fuzz::configuration(text);
    }
}

/// A predicate, and a row that it is asked about.
pub(crate) fn filter(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Ok(predicate) = std::str::from_utf8(input.piece()) else { return };
    let filter = match Filter::compile(predicate) {
        Ok(filter) => filter,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let fields = ["id", "name", "a", "b"].iter().enumerate().map(|(at, name)| Field::new(*name, None, at as u32));
    let schema = Schema { fields: fields.collect(), key: KeySpec::WholeRow };
    if filter.check(&schema).is_err() {
        return;
    }
    if let Ok(row) = Row::from_bytes(input.rest()) {
        let first = filter.wants(&schema, row.as_bytes()).ok();
        assert_eq!(filter.wants(&schema, row.as_bytes()).ok(), first, "the same row is wanted or isn't");
    }
}
