//! Which records of a source a destination wants: a predicate in the Common Expression Language.

use std::sync::Arc;

use cel::{Context, Env, Program, Value as CelValue};
use deltabus_record::row::RowReader;
use deltabus_record::schema::Schema;
use deltabus_record::text;
use deltabus_record::value::{Kind, Value};

/// A predicate that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It isn't CEL.
    #[error("`where` can't be understood: {0}")]
    Syntax(String),
    /// It speaks of a field that the source doesn't have.
    #[error("`where` speaks of `{name}`, but the source's fields are {fields}")]
    NoField {
        /// The name used.
        name: String,
        /// The fields there are.
        fields: String,
    },
    /// It gives something other than true or false, or fails on a record.
    #[error("`where` fails on a record: {0}")]
    Evaluate(String),
}

/// A compiled predicate over the source's fields, by name.
///
/// Text, numbers, booleans, lists and maps are what they are in CEL; decimals and integers beyond 64 bits are doubles;
/// absent is null; all other kinds are their canonical text, which sorts as they do for dates, times and UUIDs.
pub struct Filter {
    program: Program,
    env: Arc<Env>,
    fields: Vec<String>,
}

impl Filter {
    /// Compiles a predicate such as `country == "NO" && size > 3`.
    pub fn compile(predicate: &str) -> Result<Filter, FilterError> {
        let program = Program::compile(predicate).map_err(|error| FilterError::Syntax(error.to_string()))?;
        let fields = program.references().variables().into_iter().map(str::to_owned).collect();
        Ok(Filter { program, env: Arc::new(Env::stdlib()), fields })
    }

    /// Checks that `schema` has the fields the predicate speaks of.
    pub fn check(&self, schema: &Schema) -> Result<(), FilterError> {
        match self.fields.iter().find(|name| schema.slot(name).is_none()) {
            None => Ok(()),
            Some(name) => Err(FilterError::NoField {
                name: name.clone(),
                fields: schema.ordered().iter().map(|(_, field)| field.name.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Whether the destination wants this row.
    pub fn wants(&self, schema: &Schema, row: &[u8]) -> Result<bool, FilterError> {
        let fields: Vec<_> = RowReader::new(row).collect();
        let mut context = Context::with_env(Arc::clone(&self.env));
        for name in &self.fields {
            let value =
                schema.slot(name).and_then(|slot| fields.get(slot)).map_or(Value::Absent, |field| field.value());
            context.add_variable_from_value(name.as_str(), cel_value(&value));
        }
        match self.program.execute(&context) {
            Ok(CelValue::Bool(wanted)) => Ok(wanted),
            Ok(other) => Err(FilterError::Evaluate(format!("it gives {other:?}, not true or false"))),
            Err(error) => Err(FilterError::Evaluate(error.to_string())),
        }
    }
}

fn cel_value(value: &Value) -> CelValue {
    match value {
        Value::Absent | Value::Null => CelValue::Null,
        Value::Bool(bool) => CelValue::Bool(*bool),
        Value::Integer(integer) => CelValue::Int(*integer),
        Value::Float(float) => CelValue::Float(*float),
        Value::Text(text) => CelValue::from(text.as_str()),
        Value::Bytes(bytes) => CelValue::from(bytes.clone()),
        Value::List(values) => CelValue::from(values.iter().map(cel_value).collect::<Vec<_>>()),
        Value::Map(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), cel_value(value)));
            CelValue::from(members.collect::<std::collections::HashMap<String, CelValue>>())
        }
        other => {
            let text = text::to_text(other).unwrap_or_default();
            match other.kind() {
                Kind::Integer | Kind::Decimal => text.parse().map_or(CelValue::Null, CelValue::Float),
                _ => CelValue::from(text.as_str()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use deltabus_record::row::Row;
    use deltabus_record::schema::{Field, KeySpec};

    use super::*;

    fn schema() -> Schema {
        let field = |name, ordinal| Field::new(name, None, ordinal);
        Schema { fields: vec![field("id", 0), field("country", 1), field("size", 2)], key: KeySpec::WholeRow }
    }

    fn wants(predicate: &str, values: &[Value]) -> Result<bool, FilterError> {
        let filter = Filter::compile(predicate)?;
        filter.check(&schema())?;
        filter.wants(&schema(), Row::of(values).as_bytes())
    }

    #[test]
    fn rows_are_wanted_by_their_fields() {
        let norway = [Value::Integer(1), Value::text("NO"), Value::Integer(7)];
        assert!(wants("country == \"NO\"", &norway).unwrap());
        assert!(wants("country == 'NO' && size > 3", &norway).unwrap());
        assert!(!wants("country == 'SE' || size > 9", &norway).unwrap());
        assert!(wants("country.startsWith('N')", &norway).unwrap());
        assert!(wants("size == null", &norway[..2]).unwrap());
    }

    #[test]
    fn bad_predicates_say_what_is_wrong() {
        let row = [Value::Integer(1), Value::text("NO"), Value::Integer(7)];
        assert!(matches!(wants("country ==", &row), Err(FilterError::Syntax(_))));
        assert!(matches!(wants("land == 'NO'", &row), Err(FilterError::NoField { .. })));
        assert!(matches!(wants("size", &row), Err(FilterError::Evaluate(_))));
        assert!(matches!(wants("country > 3", &row), Err(FilterError::Evaluate(_))));
    }
}
