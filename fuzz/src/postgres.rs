//! What a PostgreSQL server sends, and what is made ready for one.

use deltabus_interfaces::fuzz::postgres as server;

use crate::input::Input;

/// Declared types that a table can have.
const TYPES: &[&str] = &[
    "boolean",
    "int2",
    "int4",
    "bigint",
    "oid",
    "float4",
    "double precision",
    "numeric",
    "numeric(5,2)",
    "text",
    "character(5)",
    "character varying(4)",
    "name",
    "json",
    "jsonb",
    "bytea",
    "date",
    "time without time zone",
    "timestamp(3) without time zone",
    "timestamp with time zone",
    "uuid",
    "interval",
    "int4[]",
    "numeric[]",
    "text[]",
    "timestamp with time zone[]",
    "bytea[]",
    "mpaa_rating AS text",
];

/// A table's types and a row of `COPY … (FORMAT binary)`, or text in one of PostgreSQL's forms.
pub(crate) fn postgres(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => {
            let count = usize::from(input.byte() % 6);
            let types: Vec<&str> = (0..count).map(|_| input.pick(TYPES)).collect();
            server::row(input.rest(), &types);
        }
        1 => {
            let declared = input.pick(TYPES);
            // A row of one field, without the frame.
            let mut row = 1_i16.to_be_bytes().to_vec();
            row.extend_from_slice(&i32::try_from(input.rest().len()).unwrap_or_default().to_be_bytes());
            row.extend_from_slice(input.rest());
            server::row(&row, &[declared]);
        }
        2 => {
            if let Ok(text) = std::str::from_utf8(input.rest()) {
                server::text(text);
            }
        }
        _ => server::stamp(input.rest()),
    }
}
