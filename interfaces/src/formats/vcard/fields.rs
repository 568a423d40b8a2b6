//! Which properties make which fields: the same for every file, so that other formats get the same columns from each.

use deltabus_record::value::Kind;

/// The field that is the key.
pub(super) const UID: &str = "uid";

/// The field that says the dialect.
pub(super) const VERSION: &str = "version";

/// The field of all properties that have no field of their own.
pub(super) const OTHER: &str = "other";

/// The components of `N` (RFC 6350, 6.2.2).
pub(super) const NAME_PARTS: &[&str] = &["family", "given", "additional", "prefixes", "suffixes"];

/// The components of `ADR` (RFC 6350, 6.3.1).
pub(super) const ADDRESS_PARTS: &[&str] = &["pobox", "extended", "street", "locality", "region", "postcode", "country"];

/// How a property's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Text with escapes.
    Text,
    /// As it stands: URIs, dates, coordinates, and what nobody knows.
    Raw,
    /// A date, where it is a whole one, else as it stands.
    Date,
    /// Components between semicolons, named so, each a list between commas.
    Parts(&'static [&'static str]),
    /// Components between semicolons, each a text: a name and its units.
    Organisation,
    /// Texts between commas.
    Texts,
    /// Bytes or a URI; bytes whose type is not said are of this sort.
    Media(&'static str),
}

/// How a field holds the property's occurrences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// There should be one: its bare value. More, and parameters, are said in JSON.
    One,
    /// There should be one, which is a map; `more` has the others.
    Map,
    /// A list of maps.
    List,
}

/// A field and the property that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldOf {
    pub(super) field: &'static str,
    pub(super) property: &'static str,
    pub(super) content: Content,
    pub(super) holds: Holds,
}

impl FieldOf {
    /// The kind of the field's values.
    pub(super) fn kind(&self) -> Option<Kind> {
        match (self.holds, self.content) {
            (Holds::List, _) => Some(Kind::List),
            (Holds::Map, _) => Some(Kind::Map),
            (Holds::One, Content::Text | Content::Raw) => Some(Kind::Text),
            (Holds::One, _) => None,
        }
    }

    const fn one(field: &'static str, property: &'static str, content: Content) -> FieldOf {
        FieldOf { field, property, content, holds: Holds::One }
    }

    const fn list(field: &'static str, property: &'static str, content: Content) -> FieldOf {
        FieldOf { field, property, content, holds: Holds::List }
    }

    const fn map(field: &'static str, property: &'static str, content: Content) -> FieldOf {
        FieldOf { field, property, content, holds: Holds::Map }
    }
}

/// Every field beside `uid`, `version` and `other`, in the order in which a new card has its properties.
pub(super) const FIELDS: &[FieldOf] = &[
    FieldOf::one("kind", "KIND", Content::Text),
    FieldOf::one("fn", "FN", Content::Text),
    FieldOf::map("n", "N", Content::Parts(NAME_PARTS)),
    FieldOf::list("nicknames", "NICKNAME", Content::Texts),
    FieldOf::map("org", "ORG", Content::Organisation),
    FieldOf::one("title", "TITLE", Content::Text),
    FieldOf::one("role", "ROLE", Content::Text),
    FieldOf::list("emails", "EMAIL", Content::Text),
    FieldOf::list("phones", "TEL", Content::Text),
    FieldOf::list("addresses", "ADR", Content::Parts(ADDRESS_PARTS)),
    FieldOf::list("labels", "LABEL", Content::Text),
    FieldOf::list("urls", "URL", Content::Raw),
    FieldOf::list("impps", "IMPP", Content::Raw),
    FieldOf::list("related", "RELATED", Content::Raw),
    FieldOf::list("members", "MEMBER", Content::Raw),
    FieldOf::list("langs", "LANG", Content::Raw),
    FieldOf::one("bday", "BDAY", Content::Date),
    FieldOf::one("anniversary", "ANNIVERSARY", Content::Date),
    FieldOf::one("gender", "GENDER", Content::Raw),
    FieldOf::list("categories", "CATEGORIES", Content::Texts),
    FieldOf::one("note", "NOTE", Content::Text),
    FieldOf::one("photo", "PHOTO", Content::Media("image")),
    FieldOf::one("logo", "LOGO", Content::Media("image")),
    FieldOf::one("sound", "SOUND", Content::Media("audio")),
    FieldOf::one("key", "KEY", Content::Media("application")),
    FieldOf::one("geo", "GEO", Content::Raw),
    FieldOf::one("tz", "TZ", Content::Raw),
    FieldOf::one("prodid", "PRODID", Content::Text),
    FieldOf::one("rev", "REV", Content::Raw),
];

/// The field named `field`.
pub(super) fn by_field(field: &str) -> Option<&'static FieldOf> {
    FIELDS.iter().find(|known| known.field == field)
}

/// The field of the property named `property`, in whatever case.
pub(super) fn by_property(property: &str) -> Option<&'static FieldOf> {
    FIELDS.iter().find(|known| known.property.eq_ignore_ascii_case(property))
}

/// Whether a property called so can't stand in `other`: it has a place of its own, or makes the card.
pub(super) fn has_place(property: &str) -> bool {
    by_property(property).is_some()
        || ["BEGIN", "END", "VERSION", "UID", super::extension::PROPERTY]
            .iter()
            .any(|reserved| reserved.eq_ignore_ascii_case(property))
}
