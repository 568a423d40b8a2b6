//! Which records of a source a destination wants: a predicate in the Common Expression Language.

use std::collections::BTreeSet;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr};
use cel::{Context, Env, IdedExpr, Program, Value as CelValue};
use deltabus_record::row::RowReader;
use deltabus_record::schema::Schema;
use deltabus_record::text;
use deltabus_record::value::{Kind, Value};

/// The longest predicate; people write some hundred bytes. It bounds how deep its parser can go.
pub const PREDICATE_BYTES_MAX: usize = 16 * 1024;

/// How deep a predicate may nest: calls, lists, maps, members and operators inside each other; `exists`, `all` and the like
/// count as two. `&&` and `||` nest no deeper however many are in a row. Evaluating a level takes up to 40 KiB of stack
/// where nothing is optimized, and threads have 2 MiB.
pub const PREDICATE_DEPTH_MAX: usize = 32;

/// What parsing a predicate may take of a stack; one of [`PREDICATE_BYTES_MAX`] can nest as deep as the parser lets it, at
/// some 100 KiB a level where nothing is optimized.
const PARSE_STACK_BYTES: usize = 64 * 1024 * 1024;

/// A predicate that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It is longer than any that a person writes.
    #[error("`where` has {bytes} bytes; {PREDICATE_BYTES_MAX} are the most")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It nests deeper than can be evaluated.
    #[error("`where` nests {depth} deep; {PREDICATE_DEPTH_MAX} is the most")]
    TooDeep {
        /// How deep.
        depth: usize,
    },
    /// No thread could be started to parse it.
    #[error("`where` can't be parsed")]
    Thread(#[source] std::io::Error),
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
        if predicate.len() > PREDICATE_BYTES_MAX {
            return Err(FilterError::TooLong { bytes: predicate.len() });
        }
        // Parser and syntax tree recurse: what nests too deeply is looked at, and dropped, where there is room.
        let roomy = std::thread::Builder::new().name("where".into()).stack_size(PARSE_STACK_BYTES);
        std::thread::scope(|scope| {
            let parsing = roomy.spawn_scoped(scope, || Filter::parse(predicate)).map_err(FilterError::Thread)?;
            parsing.join().unwrap_or_else(|_| Err(FilterError::Syntax("the parser gave up".into())))
        })
    }

    fn parse(predicate: &str) -> Result<Filter, FilterError> {
        let program = Program::compile(predicate).map_err(|error| FilterError::Syntax(error.to_string()))?;
        let depth = depth(program.expression());
        if depth > PREDICATE_DEPTH_MAX {
            return Err(FilterError::TooDeep { depth });
        }
        let mut fields = BTreeSet::new();
        free_variables(program.expression(), &mut Vec::new(), &mut fields);
        let fields = fields.into_iter().map(str::to_owned).collect();
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

/// How many expressions stand inside each other.
fn depth(whole: &IdedExpr) -> usize {
    let mut deepest = 0;
    let mut waiting = vec![(whole, 1)];
    while let Some((expression, depth)) = waiting.pop() {
        deepest = deepest.max(depth);
        children(expression, &mut |child| waiting.push((child, depth + 1)));
    }
    deepest
}

/// The names that mean something outside: not those that `exists`, `all` and the like give the elements.
fn free_variables<'a>(expression: &'a IdedExpr, bound: &mut Vec<&'a str>, free: &mut BTreeSet<&'a str>) {
    match &expression.expr {
        Expr::Ident(name) if !bound.contains(&name.as_str()) => drop(free.insert(name)),
        Expr::Comprehension(over) => {
            // Range and beginning are outside, the rest is inside.
            free_variables(&over.iter_range, bound, free);
            free_variables(&over.accu_init, bound, free);
            let before = bound.len();
            bound.push(&over.accu_var);
            free_variables(&over.result, bound, free);
            bound.push(&over.iter_var);
            bound.extend(over.iter_var2.as_deref());
            free_variables(&over.loop_cond, bound, free);
            free_variables(&over.loop_step, bound, free);
            bound.truncate(before);
        }
        _ => children(expression, &mut |child| free_variables(child, bound, free)),
    }
}

/// Gives each expression that stands directly inside another to `take`.
fn children<'a>(expression: &'a IdedExpr, take: &mut dyn FnMut(&'a IdedExpr)) {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(take),
        Expr::Comprehension(over) => {
            [&over.iter_range, &over.accu_init, &over.loop_cond, &over.loop_step, &over.result]
                .into_iter()
                .for_each(take);
        }
        Expr::List(list) => list.elements.iter().for_each(take),
        Expr::Select(select) => take(&select.operand),
        Expr::Map(map) => map.entries.iter().for_each(|entry| entry_children(&entry.expr, take)),
        Expr::Struct(of_type) => of_type.entries.iter().for_each(|entry| entry_children(&entry.expr, take)),
    }
}

fn entry_children<'a>(entry: &'a EntryExpr, take: &mut dyn FnMut(&'a IdedExpr)) {
    match entry {
        EntryExpr::StructField(field) => take(&field.value),
        EntryExpr::MapEntry(entry) => [&entry.key, &entry.value].into_iter().for_each(take),
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
    fn what_exists_and_all_name_is_no_field() {
        let row = [Value::Integer(1), Value::List(vec![Value::Integer(7)]), Value::Integer(7)];
        assert!(wants("country.exists(x, x == size)", &row).unwrap());
        assert!(!wants("country.all(size, size > 7)", &row).unwrap());
        // Outside it is one.
        assert!(matches!(wants("country.exists(x, x == 7) && x", &row), Err(FilterError::NoField { .. })));
    }

    /// Parser, syntax tree and evaluation recurse, and 20 brackets were once enough to overflow a thread's stack.
    #[test]
    fn no_predicate_overflows_the_stack() {
        let row = [Value::Integer(1), Value::text("NO"), Value::Integer(7)];
        let nested = |open: &str, inner: &str, close: &str, times: usize| {
            format!("{}{inner}{}", open.repeat(times), close.repeat(times))
        };
        for times in [1, 8, 15, 30, 90, 1000, 8000, 100_000] {
            for predicate in [
                nested("(", "true", ")", times),
                nested("[", "id", "]", times),
                nested("{1:", "id", "}", times),
                nested("size(", "id", ")", times),
                nested("[1].exists(x,", "true", ")", times),
                nested("!", "true", "", times),
                nested("-", "id", "", times),
                nested("id?id:", "id", "", times),
                nested("", "id", "+1", times),
                nested("", "id", ".a", times),
                nested("", "id", "[0]", times),
                nested("", "id == 1", " || id == 1", times),
            ] {
                let short = &predicate[..predicate.len().min(20)];
                match wants(&predicate, &row) {
                    Ok(_) | Err(FilterError::Evaluate(_)) => {}
                    Err(FilterError::TooLong { bytes }) => assert!(bytes > PREDICATE_BYTES_MAX),
                    Err(FilterError::TooDeep { depth }) => assert!(depth > PREDICATE_DEPTH_MAX),
                    Err(FilterError::Syntax(_)) => assert!(times > PREDICATE_DEPTH_MAX, "{short} {times}"),
                    Err(error) => panic!("{short} {times}: {error}"),
                }
                if times <= 15 {
                    assert!(Filter::compile(&predicate).is_ok(), "{short} {times}");
                }
            }
        }
        // As many alternatives as anybody writes are no deeper than a few.
        assert!(wants(&nested("", "id == 1", " || id == 1", 1000), &row).unwrap());
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
