//! Bytes: what is encoded decodes as it was, and nothing that comes from outside does harm.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Subject};
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{
    EncodedSet, Entry, Error, Event, Position, Reader, SnapshotReader, Writer, decode_reverse, decode_set,
    encode_reverse, encode_set, history,
};
use deltabus_proto::v1;
use deltabus_record::change::{
    Change, ChangeSet, CollectionChanges, Conflict, ConflictId, FieldChange, Outcome, Reply, ReverseId, ReverseSet,
    Revision, SchemaChange, Transaction, Verdict, Winner,
};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, FIELDS_MAX, Field, KeySpec, ReceiverName, Schema};
use deltabus_record::value::{Date, Decimal, Instant, Kind, Large, Time, Value};
use num_bigint::BigInt;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message;

use crate::brokers::prepared;
use crate::log::envelope;
use crate::sets::{encoded, noise, set_of};

fn value() -> impl Strategy<Value = Value> {
    let big = vec(any::<u8>(), 0..20).prop_map(|bytes| BigInt::from_signed_bytes_be(&bytes));
    let leaf = prop_oneof![
        Just(Value::Absent),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        big.clone().prop_map(Value::integer),
        (big, any::<i32>()).prop_map(|(unscaled, scale)| Value::Decimal(Box::new(Decimal { unscaled, scale }))),
        any::<f64>().prop_map(Value::Float),
        ".{0,200}".prop_map(Value::Text),
        vec(any::<u8>(), 0..200).prop_map(Value::Bytes),
        any::<i32>().prop_map(|days| Value::Date(Date(days))),
        (0u64..=86_400_000_000_000).prop_map(|nanos| Value::Time(Time(nanos))),
        (any::<i32>(), 0u64..86_400_000_000_000).prop_map(|(days, nanos)| Value::DateTime(Date(days), Time(nanos))),
        (any::<i64>(), 0u32..1_000_000_000, -86_399i32..86_400).prop_map(|(seconds, nanos, offset_seconds)| {
            Value::Instant(Instant { seconds, nanos, offset_seconds })
        }),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        (any::<[u8; 32]>(), any::<u64>(), any::<bool>())
            .prop_map(|(hash, length, text)| Value::Large(Box::new(Large { hash, length, text }))),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map("[a-z]{0,3}", inner, 0..4)
                .prop_map(|members| Value::Map(members.into_iter().collect())),
        ]
    })
}

fn row() -> impl Strategy<Value = Row> {
    vec(value(), 0..5).prop_map(|values| Row::of(&values))
}

fn key() -> impl Strategy<Value = Key> {
    vec(value(), 0..3).prop_map(|values| Key::of(&values))
}

fn change() -> impl Strategy<Value = Change> {
    let field = (0u32..1000, value(), value()).prop_map(|(slot, before, after)| FieldChange { slot, before, after });
    prop_oneof![
        (key(), row()).prop_map(|(key, row)| Change::Insert { key, row }),
        (key(), row()).prop_map(|(key, row)| Change::Delete { key, row }),
        (key(), vec(field, 0..4)).prop_map(|(key, fields)| Change::Update { key, fields }),
    ]
}

fn changes() -> impl Strategy<Value = CollectionChanges> {
    (".{0,8}", vec(change(), 0..4))
        .prop_map(|(name, changes)| CollectionChanges { collection: CollectionName::new(name), changes })
}

fn collection() -> impl Strategy<Value = Collection> {
    let kind = prop_oneof![Just(None), (0usize..Kind::ALL.len()).prop_map(|kind| Some(Kind::ALL[kind]))];
    let field = (".{0,8}", kind, prop::option::of("[a-z ]{1,9}"), any::<u32>(), any::<bool>()).prop_map(
        |(name, kind, declared, ordinal, dropped)| {
            let mut field = Field::new(name, kind, ordinal);
            field.declared = declared;
            field.dropped = dropped;
            field
        },
    );
    (".{0,8}", vec(field, 1..5), any::<bool>()).prop_map(|(name, fields, keyed)| {
        let mut fields: Vec<Field> = fields;
        let mut living: Vec<u32> = Vec::new();
        for at in 0..fields.len() {
            let (before, field) = fields.split_at_mut(at);
            // Of two of one name only one lives.
            field[0].dropped |= before.iter().any(|other| !other.dropped && other.name == field[0].name);
            if !field[0].dropped {
                living.insert(0, at as u32);
            }
        }
        living.truncate(2);
        let key = if keyed && !living.is_empty() { KeySpec::Fields(living) } else { KeySpec::WholeRow };
        Collection { name: CollectionName::new(name), schema: Schema { fields, key } }
    })
}

/// A number of a revision or reverse set: there are always many after it.
fn number() -> impl Strategy<Value = u64> {
    0..=1u64 << 62
}

fn revision() -> impl Strategy<Value = Revision> {
    (number(), any::<u64>(), any::<u128>())
        .prop_map(|(number, records, sum)| Revision { number, digest: Digest { records, sum } })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let conflict = (prop::option::of(0u32..100), value(), value(), value(), any::<[bool; 4]>()).prop_map(
        |(slot, base, source, edit, [source_deleted, edit_deletes, edit_wins, open])| {
            let winner = if edit_wins { Winner::Edit } else { Winner::Source };
            Conflict { slot, base, source, edit, source_deleted, edit_deletes, winner, open }
        },
    );
    let outcome = prop_oneof![
        Just(Outcome::Accepted),
        Just(Outcome::Already),
        conflict.prop_map(|conflict| Outcome::Conflict(Box::new(conflict))),
        ".{0,30}".prop_map(|reason| Outcome::Refused { reason }),
    ];
    (".{0,8}", change(), outcome).prop_map(|(name, edit, outcome)| Verdict {
        collection: CollectionName::new(name),
        edit,
        outcome,
    })
}

fn receiver() -> impl Strategy<Value = ReceiverName> {
    "[a-z0-9][a-z0-9_-]{0,8}".prop_map(|name| ReceiverName::new(&name).expect("a good name"))
}

fn set() -> impl Strategy<Value = ChangeSet> {
    let schema = (prop::option::of(collection()), prop::option::of(collection()))
        .prop_map(|(before, after)| SchemaChange { before, after });
    let transaction = (vec(schema, 0..2), vec(changes(), 0..3))
        .prop_map(|(schemas, collections)| Transaction { schemas, collections });
    let resolves = (any::<u64>(), any::<u32>()).prop_map(|(revision, index)| ConflictId { revision, index });
    let reply = (receiver(), number(), any::<u64>(), vec(verdict(), 0..3), vec(resolves, 0..2)).prop_map(
        |(receiver, number, time_millis, verdicts, resolves)| Reply {
            reverse: ReverseId { receiver, number },
            time_millis,
            verdicts,
            resolves,
        },
    );
    (revision(), revision(), any::<u64>(), vec(transaction, 0..3), vec(reply, 0..2)).prop_map(
        |(base, next, time_millis, transactions, replies)| {
            let next = Revision { number: base.number + 1, ..next };
            ChangeSet { base, next, time_millis, transactions, replies }
        },
    )
}

fn reverse_set() -> impl Strategy<Value = ReverseSet> {
    let fields = btree_map("[a-c]{1,3}".prop_map(CollectionName::new), vec("\\PC{0,8}", 0..4), 0..3);
    (receiver(), number(), revision(), any::<u64>(), vec(changes(), 0..3), fields).prop_map(
        |(receiver, number, base, time_millis, collections, fields)| ReverseSet {
            id: ReverseId { receiver, number },
            base,
            time_millis,
            edits: Transaction { schemas: Vec::new(), collections },
            fields,
        },
    )
}

/// Bytes with one thing wrong: a bit, the end, or something put in.
fn damaged(mut bytes: Vec<u8>, at: prop::sample::Index, with: u8) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![with];
    }
    let at = at.index(bytes.len());
    match with % 3 {
        0 => bytes[at] ^= 1 << (with % 8),
        1 => bytes.truncate(at),
        _ => bytes.insert(at, with),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sets_decode_as_they_were(set in set()) {
        let encoded = encode_set(&set);
        prop_assert_eq!(decode_set(&encoded.0).expect("it decodes"), set.clone());
        prop_assert_eq!(&encode_set(&set), &encoded, "one set, one encoding");
        let message = v1::ChangeSet::decode(encoded.0.clone()).expect("it is a message");
        prop_assert_eq!(message.encode_to_vec(), encoded.0.to_vec(), "as any other encoder writes it");
    }

    #[test]
    fn sets_that_wait_together_arrive_whatever_their_length_and_however_much_is_in_them(
        sets in vec((0_usize..600_000, any::<bool>(), any::<bool>()), 1..12),
    ) {
        let made: Vec<ChangeSet> = (1..).zip(&sets).map(|(number, (bytes, is_noise, _))| {
            let mut set = set_of(1, number, if *is_noise { *bytes } else { 0 });
            if !is_noise {
                let text = (0..bytes / 20).map(|i| format!("{i:>12} of these;")).collect::<String>();
                let row = Row::of(&[Value::text(text)]);
                let Change::Insert { row: before, .. } = &mut set.transactions[0].collections[0].changes[0] else {
                    panic!("it inserts")
                };
                *before = row;
            }
            set
        }).collect();
        let waiting: Vec<_> = made.iter().zip(&sets).map(|(set, (_, _, is_packed))| {
            let encoded = encode_set(set);
            let packed = encoded.clone().packed();
            assert!(packed.0.len() <= encoded.0.len());
            assert_eq!(&packed.decode().expect("it decodes"), set);
            (set.next, if *is_packed { packed } else { encoded })
        }).collect();
        on_memory(async |log| {
            let (mut writer, _) = Writer::claim(log, "t", Position::default()).await.expect("claimed");
            writer.publish(&waiting).await.expect("published");
            assert_eq!(Some(writer.position().revision), made.last().map(|set| set.next));
            let mut reader = Reader::at(log, Position::default());
            for set in &made {
                match reader.next_stored().await.expect("it can be read") {
                    Event::Set(delivered) => assert!(&delivered.set == set, "set {}", set.next.number),
                    other => panic!("{other:?}"),
                }
            }
        });
    }

    #[test]
    fn damaged_packed_sets_do_no_harm(bytes in 20_000_usize..40_000, at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let row = Row::of(&[Value::text("the same again, ".repeat(bytes / 16) + &"x".repeat(with.into()))]);
        let mut set = set_of(1, 1, 0);
        set.transactions[0].collections[0].changes.push(Change::Insert { key: Key::of(&[Value::Integer(9)]), row });
        let packed = encode_set(&set).packed().0;
        prop_assert!(packed.len() < bytes / 8);
        // Refused or not: no more is made of it than it may be.
        let _ = EncodedSet(damaged(packed.to_vec(), at, with).into()).decode();
    }

    #[test]
    fn reverse_sets_decode_as_they_were(set in reverse_set()) {
        let encoded = encode_reverse(&set);
        prop_assert_eq!(decode_reverse(&set.id.receiver, &encoded).expect("it decodes"), set);
    }

    #[test]
    fn damaged_sets_do_no_harm(set in set(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        if let Ok(decoded) = decode_set(&damaged(encode_set(&set).0.to_vec(), at, with)) {
            prop_assert_eq!(decode_set(&encode_set(&decoded).0).expect("it decodes"), decoded);
        }
    }

    #[test]
    fn damaged_reverse_sets_do_no_harm(set in reverse_set(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let receiver = set.id.receiver.clone();
        if let Ok(decoded) = decode_reverse(&receiver, &damaged(encode_reverse(&set).to_vec(), at, with)) {
            prop_assert_eq!(decode_reverse(&receiver, &encode_reverse(&decoded)).expect("it decodes"), decoded);
        }
    }

    #[test]
    fn anything_at_all_on_the_log_does_no_harm(junk in vec(any::<u8>(), 0..300), tail in 0usize..4) {
        let tail = ["pointer", "a.0", "value.x", "b.1"][tail];
        on_memory(async |log| {
            for subject in [Subject::changes(), Subject::snapshot(tail)] {
                let payload = Bytes::from(junk.clone());
                log.broker().append(log.source(), &subject, payload, Expect::Any).await.expect("it is stored");
            }
            read_everything(log).await;
        });
    }

    #[test]
    fn a_damaged_log_does_no_harm(at in any::<prop::sample::Index>(), with in any::<u8>(), which in 0usize..3) {
        on_memory(async |log| {
            let (mut writer, _) = Writer::claim(log, "t", Position::default()).await.expect("claimed");
            writer.publish(&[encoded(1, 1, 300), encoded(1, 2, 300)]).await.expect("published");
            let sets = Bytes::from(noise(1, 20));
            let messages = [
                envelope(1, v1::envelope::Content::Part(v1::Part { index: 0, count: 2, data: sets.clone() })),
                envelope(1, v1::envelope::Content::Bundle(v1::Bundle { compression: 1, length: 99, sets })),
                log.broker().last(log.source(), &Subject::changes()).await.expect("asked").expect("there").payload,
            ];
            for payload in [Bytes::from(damaged(messages[which].to_vec(), at, with)), messages[which].clone()] {
                log.broker().append(log.source(), &Subject::changes(), payload, Expect::Any).await.expect("stored");
            }
            read_everything(log).await;
        });
    }
}

/// Runs `claim` with a log on a memory bus.
fn on_memory(claim: impl AsyncFnOnce(&deltabus_bus::Log)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        claim(&prepared(&broker).await).await;
    });
}

/// Reads everything there is in every way; errors are as good as success, all else isn't.
async fn read_everything(log: &deltabus_bus::Log) {
    let mut reader = Reader::at(log, Position::default());
    while let Ok(deltabus_bus::Event::Set(_)) = reader.next_stored().await {}
    let _ = history(log, &mut |_: Entry| {}).await;
    let _ = Writer::claim(log, "t", Position::default()).await;
    if let Ok(mut reader) = SnapshotReader::open(log).await {
        while let Ok(Some(mut records)) = reader.next().await {
            while let Ok(Some(_)) = records.advance() {}
        }
    }
}

#[test]
fn what_swells_beyond_what_it_says_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 50_000_000], 3).expect("it can be compressed");
    assert!(bomb.len() < 10_000);
    for length in [0, 1000, 49_999_999, 50_000_001, u64::MAX] {
        on_memory(async |log| {
            let bundle = v1::Bundle { compression: v1::Compression::Zstd.into(), length, sets: bomb.clone().into() };
            let claim = v1::Claim { transmitter: "t".into(), nonce: 1 };
            for content in [v1::envelope::Content::Claim(claim), v1::envelope::Content::Bundle(bundle)] {
                let subject = Subject::changes();
                let payload = envelope(1, content);
                log.broker().append(log.source(), &subject, payload, Expect::Any).await.expect("it is stored");
            }
            let refused = Reader::at(log, Position::default()).next_stored().await.expect("it can be read");
            let Event::CaughtUp(end) = refused else { panic!("{length}: {refused:?}") };
            assert_eq!((end.sequence, end.revision.number), (2, 0), "it is passed over");
        });
    }
}

/// A set of these parts, as whoever knows the format can make it.
fn made(transactions: Vec<v1::Transaction>) -> Vec<u8> {
    v1::ChangeSet { transactions, ..v1::ChangeSet::default() }.encode_to_vec()
}

fn refusal(result: Result<impl std::fmt::Debug, Error>) -> String {
    match result {
        Err(error @ Error::Wire { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// An element takes two bytes and becomes a hundred, whether there is anything in it or not.
#[test]
fn more_things_than_bytes_can_be_worth_are_refused() {
    let changes = |count| v1::CollectionChanges { collection: "a".into(), changes: vec![v1::Change::default(); count] };
    let fields =
        |count| v1::Collection { name: "a".into(), fields: vec![v1::Field::default(); count], key: Vec::new() };
    let schema = |count| v1::SchemaChange { before: None, after: Some(fields(count)) };
    let many = 500_000;
    let nested = v1::Transaction { schemas: Vec::new(), collections: vec![changes(many)] };
    let listed = v1::Transaction { schemas: vec![schema(many)], collections: Vec::new() };
    for bytes in [made(vec![nested]), made(vec![listed]), made(vec![v1::Transaction::default(); many])] {
        assert!(bytes.len() < 5 * many);
        assert!(refusal(decode_set(&bytes)).contains("it lists more than"));
    }
    let reverse = v1::ReverseSet { version: 1, edits: vec![changes(many)], ..v1::ReverseSet::default() };
    let framed = [vec![0], reverse.encode_to_vec()].concat();
    let receiver = ReceiverName::new("oslo").expect("a good name");
    assert!(refusal(decode_reverse(&receiver, &framed)).contains("it lists more than"));
}

/// Slots of the same name, a key of fields that aren't there: nobody could go on from such a schema.
#[test]
fn schemas_that_are_none_are_refused() {
    let field = |name: &str, dropped| v1::Field { name: name.into(), dropped, ..v1::Field::default() };
    let long = "a".repeat(deltabus_record::schema::NAME_BYTES_MAX + 1);
    for (fields, key, problem) in [
        (vec![field("a", false), field("a", false)], vec![], "two fields are named `a`"),
        (vec![field("a", false)], vec![1], "the key names the field 1"),
        (vec![field("a", true)], vec![0], "the key names the field 0"),
        (vec![field("a", false)], vec![0, 0], "the key names the field 0"),
        (vec![field(&long, false)], vec![], "longer than the limit"),
    ] {
        let schema = v1::SchemaChange { before: None, after: Some(v1::Collection { name: "c".into(), fields, key }) };
        let refused = refusal(decode_set(&made(vec![v1::Transaction { schemas: vec![schema], collections: vec![] }])));
        assert!(refused.contains(problem), "{refused}");
    }
    let fields: Vec<_> = (0..=FIELDS_MAX).map(|at| field(&at.to_string(), false)).collect();
    let schema =
        v1::SchemaChange { before: None, after: Some(v1::Collection { name: "c".into(), fields, key: vec![] }) };
    let refused = refusal(decode_set(&made(vec![v1::Transaction { schemas: vec![schema], collections: vec![] }])));
    assert!(refused.contains("65537 fields are more than the limit"), "{refused}");
}

/// The next term after it could not be told from the first.
#[test]
fn a_term_without_one_after_it_is_refused() {
    on_memory(async |log| {
        let claim = v1::Claim { transmitter: "t".into(), nonce: 1 };
        let payload = envelope(u64::MAX, v1::envelope::Content::Claim(claim));
        log.broker().append(log.source(), &Subject::changes(), payload, Expect::Any).await.expect("it is stored");
        let (writer, _) = Writer::claim(log, "t", Position::default()).await.expect("it is no claim");
        assert!(writer.term() < u64::MAX / 2);
        let end = Reader::at(log, Position::default()).next_stored().await.expect("it can be read");
        assert!(matches!(end, Event::CaughtUp(Position { term, sequence: 2, .. }) if term == writer.term()), "{end:?}");
    });
}

/// A chunk of nothing brings a value no further, and a list may name it a million times, in as many parts.
#[test]
fn a_list_of_empty_chunks_ends_at_once() {
    let hex = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let hash = |bytes: &[u8]| Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
    let list = |chunks, parts| v1::ChunkList { version: 1, chunks, parts }.encode_to_vec();
    let no_chunks = list(Vec::new(), Vec::new());
    let large = Large { hash: [7; 32], length: 1 << 40, text: false };
    for value in [list(vec![hash(b""); 1000], Vec::new()), list(Vec::new(), vec![hash(&no_chunks); 1000])] {
        on_memory(async |log| {
            let of_value = format!("value.{}", "07".repeat(32));
            let chunks = [(b"".to_vec(), hex(b"")), (no_chunks.clone(), hex(&no_chunks))];
            let chunks = chunks.map(|(bytes, hex)| (format!("chunk.{hex}"), [vec![0], bytes].concat()));
            for (tail, payload) in [(of_value, value)].into_iter().chain(chunks) {
                let subject = Subject::snapshot(&tail);
                log.broker().append(log.source(), &subject, payload.into(), Expect::Any).await.expect("it is stored");
            }
            let mut fetch = deltabus_bus::contents::Fetch::begin(log, &large, None).await.expect("it has a list");
            assert!(matches!(fetch.next().await, Err(Error::Wire { .. })));
        });
    }
}

/// What is more compressible than readers believe goes as it is.
#[test]
fn an_honest_set_that_is_all_the_same_arrives() {
    let insert = |number: i64| Change::Insert {
        key: Key::of(&[Value::Integer(number % 2)]),
        row: Row::of(&[Value::text("the same again and again".repeat(50))]),
    };
    let changes = (0..4_000).map(insert).collect();
    let changes = CollectionChanges { collection: CollectionName::new("people"), changes };
    let (base, next) = (Revision::default(), Revision { number: 1, ..Revision::default() });
    let transactions = vec![Transaction { schemas: Vec::new(), collections: vec![changes] }];
    let set = ChangeSet { base, next, time_millis: 0, transactions, replies: Vec::new() };
    let encoded = encode_set(&set).packed();
    assert!(encoded.0.len() > 4_000_000);
    on_memory(async |log| {
        let (mut writer, _) = Writer::claim(log, "t", Position::default()).await.expect("claimed");
        writer.publish(&[(next, encoded)]).await.expect("published");
        match Reader::at(log, Position::default()).next_stored().await.expect("it can be read") {
            deltabus_bus::Event::Set(delivered) => assert_eq!(delivered.set, set),
            other => panic!("{other:?}"),
        }
    });
}

/// A packed set that claims to be longer than it may be, or is more than one.
#[test]
fn a_packed_set_is_one_set_of_the_length_it_says() {
    let set = encode_set(&set_of(1, 1, 20)).0;
    let packed = |length: u64, sets: Vec<Bytes>| {
        let plain = v1::ChangeSets { sets }.encode_to_vec();
        let length = if length == 0 { plain.len() as u64 } else { length };
        let frame = zstd::bulk::compress(&plain, 3).expect("it compresses");
        EncodedSet([&[0][..], &length.to_le_bytes(), &frame].concat().into())
    };
    assert_eq!(packed(0, vec![set.clone()]).decode().expect("it is one"), set_of(1, 1, 20));
    for refused in [
        packed(0, vec![set.clone(), set.clone()]),
        packed(0, Vec::new()),
        packed(10, vec![set.clone()]),
        packed(u64::MAX, vec![set.clone()]),
        EncodedSet(Bytes::from_static(&[0, 1, 2])),
    ] {
        assert!(matches!(refused.decode(), Err(Error::Wire { .. })), "{refused:?}");
    }
}

#[test]
fn fields_beyond_the_limit_are_refused() {
    let update = v1::Update { key: Bytes::new(), slots: vec![u32::MAX], before: Bytes::new(), after: Bytes::new() };
    let change = v1::Change { kind: Some(v1::change::Kind::Update(update)) };
    let collections = vec![v1::CollectionChanges { collection: "people".into(), changes: vec![change] }];
    let transactions = vec![v1::Transaction { schemas: Vec::new(), collections }];
    let set = v1::ChangeSet { transactions, ..v1::ChangeSet::default() };
    assert!(matches!(decode_set(&set.encode_to_vec()), Err(Error::Wire { .. })));
}
