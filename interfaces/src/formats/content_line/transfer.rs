//! Quoted-printable (RFC 2045, 6.7) and base64 (RFC 4648).

use deltabus_record::text;
use deltabus_record::value::{Kind, Value};

/// The bytes of a quoted-printable value without soft line breaks; the offset of the first `=` that means nothing is the
/// error.
pub(crate) fn qp_decode(raw: &[u8]) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        if byte != b'=' {
            out.push(byte);
            at += 1;
            continue;
        }
        let digit = |offset: usize| raw.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (digit(1), digit(2)) {
            (Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            // A soft line break at the very end, behind which nothing came.
            _ if at + 1 == raw.len() => at += 1,
            _ => return Err(at),
        }
    }
    Ok(out)
}

/// Appends `bytes` in quoted-printable, `literal` telling which printable ASCII may stand as it is; spaces and tabs at the
/// end and all that is not printable are escaped.
pub(crate) fn qp_encode(bytes: &[u8], literal: impl Fn(u8) -> bool, out: &mut String) {
    for (at, &byte) in bytes.iter().enumerate() {
        let plain = (byte.is_ascii_graphic() && byte != b'=') || (byte == b' ' && at + 1 < bytes.len());
        if plain && literal(byte) {
            out.push(char::from(byte));
        } else {
            out.push('=');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

/// The bytes of a base64 value; white space in it means nothing, the padding may be missing.
pub(crate) fn base64_decode(raw: &str) -> Option<Vec<u8>> {
    let mut digits: String = raw.chars().filter(|char| !char.is_ascii_whitespace()).collect();
    while !digits.len().is_multiple_of(4) && !digits.ends_with("==") {
        digits.push('=');
    }
    match text::parse(&digits, Kind::Bytes)? {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// Bytes in base64, padded.
pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    text::to_text(&Value::Bytes(bytes.to_vec())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut raw = String::new();
            qp_encode(&bytes, |byte| byte != b';', &mut raw);
            prop_assert!(raw.is_ascii() && !raw.contains([';', '\n', '\r']) && !raw.ends_with(' '));
            prop_assert_eq!(qp_decode(raw.as_bytes()), Ok(bytes.clone()));
            let encoded = base64_encode(&bytes);
            prop_assert_eq!(base64_decode(&encoded), Some(bytes.clone()));
            prop_assert_eq!(base64_decode(&format!(" {}", encoded.trim_end_matches('='))), Some(bytes));
        }
    }

    #[test]
    fn what_is_not_quoted_printable_is_told() {
        assert_eq!(qp_decode(b"a=c3=A9="), Ok("aé".into()));
        assert_eq!(qp_decode(b"a=G0"), Err(1));
        assert_eq!(qp_decode(b"a=3"), Err(1));
        assert_eq!(base64_decode("?"), None);
    }
}
