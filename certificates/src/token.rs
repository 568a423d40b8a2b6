//! Tokens: one line of text by which a device that knows nothing yet reaches a server and is let in.
//!
//! The bytes, in base64url without padding (RFC 4648, section 5):
//!
//! | bytes | |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | kind: 1 enrolment, 2 direct |
//! | 32 | SHA-256 of the authority's certificate; zeros: one of the system's authorities |
//! | 1 to 512 | the secret |

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

use crate::{Error, Fingerprint};

/// The only version there is.
const VERSION: u8 = 1;

/// What comes before the secret.
const HEAD_BYTES: usize = 2 + 32;

/// Longer secrets are none of ours.
const SECRET_BYTES_MAX: usize = 512;

/// The length of secrets that are made here: nobody guesses 256 bits.
const SECRET_BYTES: usize = 32;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Makes a device known to a manager, once.
    Enrolment,
    /// Lets a receiver read a source on a transmitter's own bus.
    Direct,
}

/// What a device is given to be let in.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// The authority that the server's certificate is from; `None`: one that the system trusts.
    pub authority: Option<Fingerprint>,
    /// What nobody else knows.
    pub secret: Vec<u8>,
}

impl Token {
    /// A token with a new random secret.
    pub fn random(kind: TokenKind, authority: Option<Fingerprint>) -> Result<Token, Error> {
        Ok(Token { kind, authority, secret: random_bytes::<SECRET_BYTES>()?.to_vec() })
    }

    /// The token in a file of one line.
    pub fn in_file(path: &Path) -> Result<Result<Token, TokenError>, Error> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| Error::Io { doing: "read", path: path.to_owned(), source })?;
        Ok(text.parse())
    }

    /// The one line. Whoever has it is let in: it belongs into no log, no argument and no message.
    pub fn reveal(&self) -> String {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.secret.len());
        bytes.push(VERSION);
        bytes.push(match self.kind {
            TokenKind::Enrolment => 1,
            TokenKind::Direct => 2,
        });
        bytes.extend(self.authority.map_or([0; 32], |authority| authority.0));
        bytes.extend(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The secret as text: base64url without padding. For where a password is wanted.
    pub fn secret_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.secret)
    }
}

/// Random bytes for a secret.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// A new random secret as text: base64url without padding, 256 bits.
pub fn random_text() -> Result<String, Error> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<SECRET_BYTES>()?))
}

/// Shows all but the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("kind", &self.kind).field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// Reads the one line; white space around it doesn't matter.
impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Broken)?;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(TokenError::Version(version)),
            None => return Err(TokenError::Empty),
        }
        let (Some(kind), Some(authority), Some(secret)) =
            (bytes.get(1), bytes.get(2..HEAD_BYTES), bytes.get(HEAD_BYTES..))
        else {
            return Err(TokenError::Broken);
        };
        let kind = match kind {
            1 => TokenKind::Enrolment,
            2 => TokenKind::Direct,
            kind => return Err(TokenError::Kind(*kind)),
        };
        if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
            return Err(TokenError::Broken);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(authority);
        let authority = (fingerprint != [0; 32]).then_some(Fingerprint(fingerprint));
        Ok(Token { kind, authority, secret: secret.to_vec() })
    }
}

/// Why a text is no token. Shows nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is nothing.
    #[error("the token is empty")]
    Empty,
    /// It was not copied as a whole.
    #[error("the token is broken: was it copied as a whole?")]
    Broken,
    /// From another time.
    #[error("the token is of version {0}, which this deltabus doesn't know")]
    Version(u8),
    /// For something else.
    #[error("the token is of kind {0}, which this deltabus doesn't know")]
    Kind(u8),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_revealed_is_read(
            direct in any::<bool>(),
            authority in proptest::option::of(proptest::array::uniform32(1u8..)),
            secret in proptest::collection::vec(any::<u8>(), 1..=SECRET_BYTES_MAX),
        ) {
            let kind = if direct { TokenKind::Direct } else { TokenKind::Enrolment };
            let token = Token { kind, authority: authority.map(Fingerprint), secret };
            let text = token.reveal();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(format!(" {text}\n").parse(), Ok(token));
        }

        #[test]
        fn no_text_is_trouble(text in any::<String>()) {
            let _ = text.parse::<Token>();
        }

        #[test]
        fn no_bytes_are_trouble(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(token) = URL_SAFE_NO_PAD.encode(&bytes).parse::<Token>() {
                prop_assert_eq!(URL_SAFE_NO_PAD.decode(token.reveal()).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn the_form_is_fixed() {
        let token =
            Token { kind: TokenKind::Direct, authority: Some(Fingerprint([0xab; 32])), secret: b"secret".to_vec() };
        assert_eq!(token.reveal(), "AQKrq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq3NlY3JldA");
        assert_eq!(token.secret_text(), "c2VjcmV0");
        let token = Token { kind: TokenKind::Enrolment, authority: None, secret: vec![0] };
        assert_eq!(token.reveal(), "AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        let of = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes).parse::<Token>();
        assert_eq!("".parse::<Token>(), Err(TokenError::Empty));
        assert_eq!("not base64!".parse::<Token>(), Err(TokenError::Broken));
        assert_eq!(of(&[2; 40]), Err(TokenError::Version(2)));
        assert_eq!(of(&[[1, 9].as_slice(), &[0; 40]].concat()), Err(TokenError::Kind(9)));
        // Cut off within the fingerprint, before the secret, and one that is too long.
        assert_eq!(of(&[1, 2, 3]), Err(TokenError::Broken));
        assert_eq!(of(&[[1, 2].as_slice(), &[7; 32]].concat()), Err(TokenError::Broken));
        assert_eq!(of(&[[1, 2].as_slice(), &[7; 32 + SECRET_BYTES_MAX + 1]].concat()), Err(TokenError::Broken));
    }

    #[test]
    fn a_token_in_a_message_shows_no_secret() {
        let token = Token { kind: TokenKind::Direct, authority: None, secret: b"hidden words".to_vec() };
        let shown = format!("{token:?}");
        assert!(!shown.contains("hidden") && !shown.contains("104"), "{shown}");
    }

    #[test]
    fn two_random_tokens_differ() {
        let one = Token::random(TokenKind::Direct, None).unwrap();
        assert_eq!(one.secret.len(), SECRET_BYTES);
        assert_ne!(one, Token::random(TokenKind::Direct, None).unwrap());
        assert_ne!(random_text().unwrap(), random_text().unwrap());
    }
}
