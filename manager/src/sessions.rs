//! How a key proves over gRPC who it is: it signs a challenge, and gets a session that any call carries.
//!
//! Nothing is kept for either: both carry a mark that only this process can make, so that a flood of strangers costs no memory.
//! A session ends with its time, with its manager's process, and at once with its participant's rights, which each call looks up.

use nkeys::KeyPair;

use crate::Error;
use crate::authority::now_millis;

/// How long a challenge may take to come back.
const CHALLENGE_MILLIS: u64 = 30_000;

/// How long a session lasts.
pub(crate) const SESSION_SECONDS: u32 = 600;

/// Time, noise, mark.
const CHALLENGE_BYTES: usize = 8 + 16 + 32;

/// What challenges are signed under, so that a signature means nothing elsewhere.
const DOMAIN: &[u8] = b"deltabus manager challenge\0";

/// Makes and knows challenges and sessions.
pub(crate) struct Sessions {
    secret: [u8; 32],
}

impl Sessions {
    pub(crate) fn new() -> Result<Sessions, Error> {
        Ok(Sessions { secret: random()? })
    }

    pub(crate) fn challenge(&self, key: &str) -> Result<Vec<u8>, Error> {
        let noise: [u8; 16] = random()?;
        let mut challenge = Vec::with_capacity(CHALLENGE_BYTES);
        challenge.extend(now_millis().to_be_bytes());
        challenge.extend(noise);
        let mark = self.mark("challenge", key, &challenge);
        challenge.extend(mark);
        Ok(challenge)
    }

    /// A session, if the challenge was one of ours for this key and the key signed it.
    pub(crate) fn open(&self, key: &str, challenge: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
        let (head, mark) = challenge.split_at_checked(CHALLENGE_BYTES - 32)?;
        if !same(mark, &self.mark("challenge", key, head)) {
            return None;
        }
        let (time, _) = head.split_first_chunk::<8>()?;
        if now_millis().abs_diff(u64::from_be_bytes(*time)) > CHALLENGE_MILLIS {
            return None;
        }
        KeyPair::from_public_key(key).ok()?.verify(&signed_text(challenge), signature).ok()?;
        let until = now_millis() + u64::from(SESSION_SECONDS) * 1000;
        let mut session = until.to_be_bytes().to_vec();
        session.extend(self.mark("session", key, &until.to_be_bytes()));
        session.extend(key.as_bytes());
        Some(session)
    }

    /// The key that a session stands for.
    pub(crate) fn key(&self, session: &[u8]) -> Option<String> {
        let (time, rest) = session.split_first_chunk::<8>()?;
        let (mark, key) = rest.split_at_checked(32)?;
        let key = std::str::from_utf8(key).ok()?;
        let good = same(mark, &self.mark("session", key, time)) && u64::from_be_bytes(*time) > now_millis();
        good.then(|| key.to_owned())
    }

    fn mark(&self, what: &str, key: &str, of: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        for part in [what.as_bytes(), key.as_bytes(), of] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// What a key signs to answer a challenge.
pub(crate) fn signed_text(challenge: &[u8]) -> Vec<u8> {
    [DOMAIN, challenge].concat()
}

/// In the same time whatever they are.
fn same(a: &[u8], b: &[u8; 32]) -> bool {
    <[u8; 32]>::try_from(a).is_ok_and(|a| blake3::Hash::from(a) == blake3::Hash::from(*b))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    deltabus_certificates::random_bytes().map_err(|error| Error::Key(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_signs_its_challenge_gets_a_session_and_no_other() {
        let (sessions, others) = (Sessions::new().expect("random"), Sessions::new().expect("random"));
        let (key, stranger) = (KeyPair::new_user(), KeyPair::new_user());
        let challenge = sessions.challenge(&key.public_key()).expect("random");
        let signature = key.sign(&signed_text(&challenge)).expect("it signs");
        let session = sessions.open(&key.public_key(), &challenge, &signature).expect("it is the key");
        assert_eq!(sessions.key(&session), Some(key.public_key()));

        let by_stranger = stranger.sign(&signed_text(&challenge)).expect("it signs");
        assert!(sessions.open(&key.public_key(), &challenge, &by_stranger).is_none());
        assert!(sessions.open(&stranger.public_key(), &challenge, &by_stranger).is_none(), "another's challenge");
        assert!(others.open(&key.public_key(), &challenge, &signature).is_none(), "another manager's challenge");
        let bare = key.sign(&challenge).expect("it signs");
        assert!(sessions.open(&key.public_key(), &challenge, &bare).is_none(), "signed for something else");
        for at in 0..session.len() {
            let mut changed = session.clone();
            changed[at] ^= 1;
            assert_eq!(sessions.key(&changed), None, "byte {at}");
        }
        for length in 0..CHALLENGE_BYTES {
            assert!(sessions.open(&key.public_key(), &challenge[..length], &signature).is_none());
            assert_eq!(sessions.key(&session[..length.min(session.len() - 1)]), None);
        }
    }
}
