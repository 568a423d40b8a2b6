//! What strangers and participants send to a manager, for whoever feeds it with anything (feature `fuzz`).

use std::sync::OnceLock;

use deltabus_proto::manager::v1;
use prost::Message;

use crate::rights::Rights;
use crate::sessions::Sessions;

/// Takes a message of any kind apart as the services do, and a session or an answer to a challenge.
///
/// # Panics
/// Where rights don't survive being written down, a name that could be a wildcard is let through, or a session that nobody made
/// counts.
pub fn message(bytes: &[u8]) {
    static SESSIONS: OnceLock<Sessions> = OnceLock::new();
    let sessions = SESSIONS.get_or_init(|| Sessions::new().expect("the system has random bytes"));
    assert_eq!(sessions.key(bytes), None, "a session that was made up");
    if let Ok(open) = v1::OpenRequest::decode(bytes) {
        assert_eq!(sessions.open(&open.key, &open.challenge, &open.signature), None, "a challenge that was made up");
    }
    let asked = [
        v1::Rights::decode(bytes).ok(),
        v1::GrantRequest::decode(bytes).ok().and_then(|request| request.rights),
        v1::InviteRequest::decode(bytes).ok().and_then(|request| request.invitations.into_iter().next()?.rights),
    ];
    for rights in asked.into_iter().flatten() {
        let Ok(rights) = Rights::from_wire(&rights) else { continue };
        assert_eq!(Rights::from_wire(&rights.to_wire()).as_ref(), Ok(&rights));
        let record = serde_json::to_string(&rights).expect("rights can be written");
        assert_eq!(serde_json::from_str::<Rights>(&record).expect("and read"), rights);
        for tag in rights.tags() {
            assert!(!tag.contains(['*', '>', '.', '{', ' ']), "{tag}");
        }
    }
    let _ = v1::ReportRequest::decode(bytes);
    let _ = v1::AnswerRequest::decode(bytes);
}
