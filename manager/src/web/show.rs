//! Changes, conflicts and refused edits as a browser gets them: texts, cut to a length that can be looked at.

use deltabus_bus::Schemas;
use deltabus_record::change::{Case, Change, ChangeSet, Outcome, Winner};
use deltabus_record::diff;
use deltabus_record::key;
use deltabus_record::row::Row;
use deltabus_record::schema::{CollectionName, Schema};
use deltabus_record::text::{display, printable};
use deltabus_record::value::Value;
use serde_json::{Value as Json, json};

/// Fields of one record that are shown.
const FIELDS_MAX: usize = 64;

/// The longest text that is shown whole, in characters; texts of values are shorter anyway.
const TEXT_MAX: usize = 1_000;

/// What a schema calls a field.
fn field_name(schema: Option<&Schema>, slot: u32) -> String {
    let field = schema.and_then(|schema| schema.fields.get(slot as usize));
    field.map_or_else(|| format!("field {slot}"), |field| text(&field.name))
}

/// A text from elsewhere, with what a browser might obey made visible, cut.
pub(super) fn text(text: &str) -> String {
    let shown = printable(text);
    match shown.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

fn key_text(change: &Change) -> String {
    text(&key::display(change.key().as_bytes()))
}

/// One change: what it does to which record, and its fields before and after.
pub(super) fn change(schemas: &Schemas, collection: &CollectionName, change: &Change) -> Json {
    let (kind, fields) = match change {
        Change::Insert { row, .. } => ("insert", diff::fields(&Row::default(), row)),
        Change::Delete { row, .. } => ("delete", diff::fields(row, &Row::default())),
        Change::Update { fields, .. } => ("update", fields.clone()),
    };
    let schema = schemas.find(collection);
    let side = |value: &Value| (*value != Value::Absent).then(|| display(value));
    let more = fields.len().saturating_sub(FIELDS_MAX);
    let fields: Vec<Json> = fields
        .iter()
        .take(FIELDS_MAX)
        .map(|field| {
            json!({
                "name": field_name(schema, field.slot),
                "before": side(&field.before), "after": side(&field.after),
            })
        })
        .collect();
    json!({
        "change": kind, "collection": text(collection.as_str()), "key": key_text(change), "fields": fields,
        "more_fields": more,
    })
}

/// A conflict or a refused edit.
pub(super) fn case(schemas: &Schemas, set: &ChangeSet, case: &Case<'_>) -> Option<Json> {
    let schema = schemas.find(&case.verdict.collection);
    let mut shown = json!({
        "id": case.id.to_string(), "revision": case.id.revision, "time_millis": set.time_millis,
        "receiver": case.reply.reverse.receiver.as_str(), "reverse_set": case.reply.reverse.number,
        "collection": text(case.verdict.collection.as_str()), "key": key_text(&case.verdict.edit),
    });
    match &case.verdict.outcome {
        Outcome::Conflict(conflict) => {
            shown["field"] = conflict.slot.map(|slot| field_name(schema, slot)).into();
            shown["base"] = display(&conflict.base).into();
            shown["source"] = display(&conflict.source).into();
            shown["edit"] = display(&conflict.edit).into();
            shown["source_deleted"] = conflict.source_deleted.into();
            shown["edit_deletes"] = conflict.edit_deletes.into();
            shown["stands"] = if conflict.winner == Winner::Source { "source" } else { "edit" }.into();
            shown["open"] = conflict.open.into();
        }
        Outcome::Refused { reason } => {
            let edit = change(schemas, &case.verdict.collection, &case.verdict.edit);
            shown["change"] = edit["change"].clone();
            shown["fields"] = edit["fields"].clone();
            shown["reason"] = text(reason).into();
        }
        Outcome::Accepted | Outcome::Already => return None,
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use deltabus_record::change::FieldChange;
    use deltabus_record::key::Key;

    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text_of_a_length_that_can_be_looked_at() {
        let hostile = "<script>alert(1)</script>\u{202e}\u{7}";
        let key = Key::of(&[Value::text(hostile)]);
        let field = FieldChange { slot: 70, before: Value::Absent, after: Value::text("x".repeat(100_000)) };
        let update = Change::Update { key, fields: vec![field] };
        let shown = change(&Schemas::default(), &CollectionName::new("a".repeat(5_000)), &update);
        let all = shown.to_string();
        assert!(all.len() < 5_000, "{}", all.len());
        // It stays what it is; that it is no HTML is for whoever puts it into a page as text.
        assert!(shown["key"].as_str().is_some_and(|key| key.contains("<script>")), "{shown}");
        assert!(!all.contains('\u{202e}') && !all.contains('\u{7}'), "{shown}");
        assert_eq!(shown["fields"][0]["name"], "field 70");
        assert_eq!(shown["fields"][0]["before"], Json::Null);
    }

    #[test]
    fn a_record_of_many_fields_is_shown_in_part() {
        let values: Vec<Value> = (0..200).map(|number| Value::text(format!("v{number}"))).collect();
        let insert = Change::Insert { key: Key::of(&[Value::text("k")]), row: Row::of(&values) };
        let shown = change(&Schemas::default(), &CollectionName::new("c"), &insert);
        assert_eq!(shown["fields"].as_array().map(Vec::len), Some(FIELDS_MAX));
        assert_eq!(shown["more_fields"], 200 - FIELDS_MAX);
    }
}
