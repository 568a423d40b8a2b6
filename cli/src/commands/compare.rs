//! Two stores side by side, whatever their formats.

use deltabus_interfaces::found::{Found, Translate};
use deltabus_interfaces::{Error as InterfaceError, Extent, Interface, Location, Scan};
use deltabus_record::diff::{self, Comparison, DiffError, Fingerprints, Identity, Side};
use deltabus_record::row::{FieldRef, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Large, Value};

use crate::error::Error;
use crate::report::Report;
use crate::sorter::FileSorter;

/// Opens the store at a location.
pub(crate) fn open(location: &str) -> Result<Box<dyn Interface>, Error> {
    Ok(deltabus_interfaces::open(&Location::parse(location)?)?)
}

/// One collection that was compared: its differences wait to be taken.
struct Compared {
    collection: CollectionName,
    /// The fields of both sides, by which the rows are to be read.
    schema: Schema,
    identity: Identity,
    differences: FileSorter,
}

/// Reports what leads from `a` to `b`, collection by collection.
///
/// Values are compared as both stores can hold them: each is brought through what the one makes of it, then the other.
/// Nothing is reported before all of both was read.
pub(crate) fn compare(a: &dyn Interface, b: &dyn Interface, report: &mut Report<'_>) -> Result<(), Error> {
    let (mut left, mut right) = (a.scan(None)?, b.scan(None)?);
    let (in_a, in_b) = (left.collections().to_vec(), right.collections().to_vec());
    let pairs = pairs(a, b, &in_a, &in_b);
    let mut all = Vec::new();
    for (at, collection) in in_a.iter().enumerate() {
        left.start(at, Extent::Whole)?;
        let Some(to) = pairs.iter().find(|(from, _)| *from == at).map(|(_, to)| *to) else {
            all.push(alone(&mut *left, collection, Side::A)?);
            continue;
        };
        right.start(to, Extent::Whole)?;
        let common = Common::of((a, collection), (b, &in_b[to]));
        let same = left.layout(at) == right.layout(to) && collection.schema == in_b[to].schema;
        let fingerprints = if same { Fingerprints::Comparable } else { Fingerprints::Foreign };
        let identity = common.identity();
        let mut differences = FileSorter::new();
        let mut comparison = Comparison::new(fingerprints, identity, &mut differences);
        let mut from = Found::new(&mut *left, common.translator(a, b, Side::A));
        let mut into = Found::new(&mut *right, common.translator(a, b, Side::B));
        comparison.walk(&mut from, &mut into).map_err(duplicate)?;
        for (side, interface, at) in [(Side::A, a, at), (Side::B, b, to)] {
            if !comparison.wants(side) {
                continue;
            }
            let mut scan = interface.scan(None)?;
            for before in 0..at {
                scan.start(before, Extent::Whole)?;
                while scan.next()?.is_some() {}
            }
            scan.start(at, Extent::Whole)?;
            let mut found = Found::new(&mut *scan, common.translator(a, b, side));
            if !comparison.again(side, &mut found).map_err(duplicate)? {
                return Err(InterfaceError::Changed { place: collection.name.to_string() }.into());
            }
        }
        let schema = common.schema.clone();
        all.push(Compared { collection: collection.name.clone(), schema, identity, differences });
    }
    for (at, collection) in in_b.iter().enumerate().filter(|(at, _)| !pairs.iter().any(|(_, to)| to == at)) {
        right.start(at, Extent::Whole)?;
        all.push(alone(&mut *right, collection, Side::B)?);
    }
    left.finish()?;
    right.finish()?;
    for Compared { collection, schema, identity, mut differences } in all {
        diff::settle(&mut differences, identity, &mut |difference| {
            report.difference(&collection, &schema, &difference)
        })
        .map_err(duplicate::<Error>)?;
        // A collection without differences is listed too, so that scripts find each.
        report.collection(&collection)?;
    }
    Ok(())
}

/// Which collections belong together: those of one name, and the only ones where a store holds just one.
pub(crate) fn pairs(
    a: &dyn Interface,
    b: &dyn Interface,
    in_a: &[Collection],
    in_b: &[Collection],
) -> Vec<(usize, usize)> {
    if in_a.len() == 1 && in_b.len() == 1 && (a.single_collection() || b.single_collection()) {
        return vec![(0, 0)];
    }
    let place = |collection: &Collection| in_b.iter().position(|other| other.name == collection.name);
    let found = in_a.iter().enumerate().filter_map(|(at, collection)| Some((at, place(collection)?)));
    let mut last = None;
    // Scans go through their collections in order; names are in one order on both sides in all stores of several.
    found
        .filter(|(_, to)| {
            last.is_none_or(|last| last < *to) && {
                last = Some(*to);
                true
            }
        })
        .collect()
}

/// Two keys that are one, as the command's error.
pub(crate) fn duplicate<E: Into<Error>>(error: DiffError<E>) -> Error {
    match error {
        DiffError::Store(error) => error.into(),
        DiffError::DuplicateKey { key, place, other } => Error::DuplicateKey { place, key, other },
    }
}

/// What becomes of contents, so that a reference and the bytes themselves compare.
#[derive(Clone, Copy)]
enum Reference {
    /// References stay, other values too.
    Stays,
    /// Bytes become the reference to them.
    IsMade,
    /// References are read.
    IsRead,
}

fn reference_to(value: Value) -> Value {
    let reference = |bytes: &[u8]| {
        Value::Large(Box::new(Large { hash: *blake3::hash(bytes).as_bytes(), length: bytes.len() as u64, text: false }))
    };
    match value {
        Value::Text(text) => reference(text.as_bytes()),
        Value::Bytes(bytes) => reference(&bytes),
        value => value,
    }
}

/// A collection that only one side has.
fn alone(scan: &mut dyn Scan, collection: &Collection, side: Side) -> Result<Compared, Error> {
    let schema = collection.schema.clone();
    let identity = identity_of(&schema);
    let mut differences = FileSorter::new();
    let mut found = Found::new(
        scan,
        Box::new(|row, key, out| {
            schema.key_content_into(row, key);
            out.extend_from_slice(row);
            Ok(())
        }),
    );
    let mut comparison = Comparison::new(Fingerprints::Comparable, identity, &mut differences);
    comparison.alone(side, &mut found).map_err(duplicate)?;
    drop(found);
    Ok(Compared { collection: collection.name.clone(), schema, identity, differences })
}

fn identity_of(schema: &Schema) -> Identity {
    if schema.key == KeySpec::WholeRow { Identity::WholeRow } else { Identity::Key }
}

/// The fields of both sides.
struct Common {
    schema: Schema,
    /// For each common slot: the field and its slot in a, in b.
    fields: Vec<(Option<(usize, Field)>, Option<(usize, Field)>)>,
}

impl Common {
    fn of((left, a): (&dyn Interface, &Collection), (right, b): (&dyn Interface, &Collection)) -> Common {
        // What a store has by itself is no difference.
        let is_own = |interface: &dyn Interface, field: &Field| interface.own_fields().contains(&field.name.as_str());
        let mut fields = Vec::new();
        let mut schema = Schema { fields: Vec::new(), key: KeySpec::WholeRow };
        for (slot, field) in a.schema.ordered() {
            let there = b.schema.slot(&field.name).map(|slot| (slot, b.schema.fields[slot].clone()));
            if there.is_none() && is_own(left, field) {
                continue;
            }
            schema.fields.push(Field { ordinal: fields.len() as u32, ..field.clone() });
            fields.push((Some((slot, field.clone())), there));
        }
        for (slot, field) in b.schema.ordered().into_iter().filter(|(_, field)| a.schema.slot(&field.name).is_none()) {
            if is_own(right, field) {
                continue;
            }
            schema.fields.push(Field { ordinal: fields.len() as u32, ..field.clone() });
            fields.push((None, Some((slot, field.clone()))));
        }
        // A side without a key of its own takes the other's.
        for side in [a, b] {
            let names = side.schema.key_names();
            if !names.is_empty()
                && schema.key == KeySpec::WholeRow
                && let Ok(keyed) = schema.clone().with_key(&names)
            {
                schema = keyed;
            }
        }
        Common { schema, fields }
    }

    fn identity(&self) -> Identity {
        identity_of(&self.schema)
    }

    /// Brings rows of one side into the common slots and the form that both can hold.
    fn translator<'a>(&'a self, a: &'a dyn Interface, b: &'a dyn Interface, side: Side) -> Box<Translate<'a>> {
        let both = |slot: usize, value: Value| -> Value {
            let (in_a, in_b) = &self.fields[slot];
            let through = |interface: &dyn Interface, field: &Option<(usize, Field)>, value: Value| match field {
                Some((_, field)) if !interface.verbatim(field).contains(value.kind()) => {
                    // What a store refuses is compared as it is.
                    interface.project(value.clone(), field).unwrap_or(value)
                }
                _ => value,
            };
            through(a, in_a, through(b, in_b, value))
        };
        // References are compared as such where the other side can be brought to one, else as what they stand for.
        let side_of = |(in_a, in_b): &(Option<(usize, Field)>, Option<(usize, Field)>), other: bool| {
            let (interface, field) = if (side == Side::A) != other { (a, in_a) } else { (b, in_b) };
            field.as_ref().map(|(_, field)| (field.kind, interface.verbatim(field)))
        };
        let by_reference: Vec<Reference> = self
            .fields
            .iter()
            .map(|fields| match (side_of(fields, false), side_of(fields, true)) {
                (Some((Some(Kind::Large), _)), Some((_, other))) => {
                    if other.contains(Kind::Large) || other.contains(Kind::Bytes) {
                        Reference::Stays
                    } else {
                        Reference::IsRead
                    }
                }
                (Some((_, own)), Some((Some(Kind::Large), _))) if own.contains(Kind::Bytes) => Reference::IsMade,
                _ => Reference::Stays,
            })
            .collect();
        let own = if side == Side::A { a } else { b };
        let verbatim: Vec<_> = self
            .fields
            .iter()
            .map(|(in_a, in_b)| {
                let of = |interface: &dyn Interface, field: &Option<(usize, Field)>| {
                    field.as_ref().map(|(_, field)| interface.verbatim(field))
                };
                (of(a, in_a), of(b, in_b))
            })
            .collect();
        let slots: Vec<Option<usize>> = self
            .fields
            .iter()
            .map(|(in_a, in_b)| if side == Side::A { in_a } else { in_b }.as_ref().map(|(slot, _)| *slot))
            .collect();
        let mut common = RowBuilder::default();
        Box::new(move |row, key, out| {
            let fields: Vec<FieldRef<'_>> = RowReader::new(row).collect();
            common.clear();
            for (slot, from) in slots.iter().enumerate() {
                let field = from.and_then(|from| fields.get(from).copied()).unwrap_or(FieldRef::ABSENT);
                let kind = field.kind();
                match (by_reference[slot], kind) {
                    (Reference::IsMade, Kind::Text | Kind::Bytes) => {
                        common.push(&reference_to(field.value()));
                        continue;
                    }
                    (Reference::IsRead, Kind::Large) => {
                        if let Value::Large(large) = field.value() {
                            common.push(&both(slot, own.contents().value(&large)?));
                            continue;
                        }
                    }
                    (Reference::Stays, Kind::Large) => {
                        common.push_encoded(field);
                        continue;
                    }
                    _ => {}
                }
                let as_it_is = |kinds: &Option<deltabus_record::value::KindSet>| {
                    kinds.as_ref().is_none_or(|kinds| kinds.contains(kind))
                };
                if from.is_none() || (as_it_is(&verbatim[slot].0) && as_it_is(&verbatim[slot].1)) {
                    common.push_encoded(field);
                } else {
                    common.push(&both(slot, field.value()));
                }
            }
            self.schema.key_content_into(common.as_bytes(), key);
            out.extend_from_slice(common.as_bytes());
            Ok(())
        })
    }
}
