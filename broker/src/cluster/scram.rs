//! Credentials of users for SCRAM (RFC 5802): what a server needs to tell who somebody is, and
//! nothing that lets it be them.
//!
//! Owns: what is kept of a password and how, its place among the settings of the cluster, what a
//! change commits. Does not own: Kafka's way to ask (`kafka::scram`), logging in. Nobody logs in
//! with them yet.
//!
//! One credential is one setting: `scram/SCRAM-SHA-256/USER`, its value as in RFC 5803. The two
//! keys let somebody who reads them guess passwords, so nothing shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use levee_proto::metalog::{ClusterConfig, Record};
use levee_tiering::metalog::MetaState;

use super::message::Answer;
use crate::error::Error;

/// What these settings begin with.
const PREFIX: &str = "scram/";
/// Credentials; each takes memory in every broker, and bytes in every snapshot.
const CREDENTIALS_MAX: usize = 10_000;
/// Length of a user's name.
const USER_BYTES_MAX: usize = 1024;
/// Length of a salt; clients take 8 to 32.
const SALT_BYTES_MAX: usize = 256;
/// Kafka's bounds: fewer make guessing cheap, more make each login a burden.
const ITERATIONS: RangeInclusive<i32> = 4096..=16_384;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    Sha256,
    Sha512,
}

impl Mechanism {
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// Bytes of a hash, and so of a salted password and both keys.
    fn hash_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn algorithms(self) -> (hmac::Algorithm, &'static digest::Algorithm) {
        match self {
            Self::Sha256 => (hmac::HMAC_SHA256, &digest::SHA256),
            Self::Sha512 => (hmac::HMAC_SHA512, &digest::SHA512),
        }
    }
}

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub iterations: i32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Credential {
    /// RFC 5802 section 3: the salted password itself could log in, so it is not kept. An error
    /// says what is wrong with what was given.
    pub fn new(
        mechanism: Mechanism,
        iterations: i32,
        salt: &[u8],
        salted_password: &[u8],
    ) -> Result<Self, String> {
        let (from, to) = (ITERATIONS.start(), ITERATIONS.end());
        if !ITERATIONS.contains(&iterations) {
            let few = if iterations < *from { "Too few" } else { "Too many" };
            return Err(format!("{few} iterations: {iterations}, {from} to {to} are taken"));
        }
        if !(1..=SALT_BYTES_MAX).contains(&salt.len()) {
            let len = salt.len();
            return Err(format!("a salt has 1 to {SALT_BYTES_MAX} bytes, not {len}"));
        }
        let (name, bytes, len) = (mechanism.name(), mechanism.hash_bytes(), salted_password.len());
        if len != bytes {
            return Err(format!("a salted password of {name} has {bytes} bytes, not {len}"));
        }
        let (mac, hash) = mechanism.algorithms();
        let salted = hmac::Key::new(mac, salted_password);
        let client_key = hmac::sign(&salted, b"Client Key");
        Ok(Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: digest::digest(hash, client_key.as_ref()).as_ref().to_vec(),
            server_key: hmac::sign(&salted, b"Server Key").as_ref().to_vec(),
        })
    }

    /// RFC 5803: `SCRAM-SHA-256$ITERATIONS:SALT$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY= KEY:SERVER KEY`.
    fn text(&self, mechanism: Mechanism) -> String {
        let [salt, stored, server] =
            [&self.salt, &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        format!("{}${}:{salt}${stored}:{server}", mechanism.name(), self.iterations)
    }

    fn parse(mechanism: Mechanism, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(mechanism.name())?.strip_prefix('$')?;
        let (cost, keys) = rest.split_once('$')?;
        let ((iterations, salt), (stored, server)) = (cost.split_once(':')?, keys.split_once(':')?);
        let bytes = |text: &str| BASE64.decode(text).ok();
        Some(Self {
            iterations: iterations.parse().ok()?,
            salt: bytes(salt)?,
            stored_key: bytes(stored)?,
            server_key: bytes(server)?,
        })
    }
}

/// A change of one user's credentials; all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct ScramChange {
    pub user: String,
    pub set: BTreeMap<Mechanism, Credential>,
    pub remove: BTreeSet<Mechanism>,
}

/// Whether a user can have this name.
pub fn check_user(user: &str) -> Result<(), String> {
    match user.len() {
        0 => Err("Username must not be empty".into()),
        1..=USER_BYTES_MAX => Ok(()),
        len => Err(format!("a user's name has at most {USER_BYTES_MAX} bytes, not {len}")),
    }
}

/// All credentials, by user.
pub fn all(state: &MetaState) -> BTreeMap<&str, BTreeMap<Mechanism, Credential>> {
    let mut users = BTreeMap::<&str, BTreeMap<_, _>>::new();
    for mechanism in Mechanism::ALL {
        for (user, text) in stored(state, mechanism) {
            if let Some(credential) = Credential::parse(mechanism, text) {
                users.entry(user).or_default().insert(mechanism, credential);
            }
        }
    }
    users
}

fn stored(state: &MetaState, mechanism: Mechanism) -> impl Iterator<Item = (&str, &str)> {
    let prefix = key(mechanism, "");
    let from = state.config.range(prefix.clone()..);
    from.map_while(move |(key, text)| Some((key.strip_prefix(&prefix)?, text.as_str())))
}

fn key(mechanism: Mechanism, user: &str) -> String {
    format!("{PREFIX}{}/{user}", mechanism.name())
}

/// The records that make a change, or why it cannot be.
pub fn decide(state: &MetaState, change: &ScramChange) -> Result<(Vec<Record>, Answer), Error> {
    check_user(&change.user).map_err(Error::invalid_argument)?;
    let remove: Vec<String> = change.remove.iter().map(|m| key(*m, &change.user)).collect();
    if remove.iter().any(|key| !state.config.contains_key(key)) {
        return Ok((Vec::new(), Answer::NotThere));
    }
    let text = |(mechanism, credential): (&Mechanism, &Credential)| {
        (key(*mechanism, &change.user), credential.text(*mechanism))
    };
    let set: BTreeMap<String, String> = change.set.iter().map(text).collect();
    let known: usize =
        Mechanism::ALL.map(|mechanism| stored(state, mechanism).count()).iter().sum();
    let new = set.keys().filter(|key| !state.config.contains_key(*key)).count();
    if known + new > CREDENTIALS_MAX + remove.len() {
        let why = format!("{CREDENTIALS_MAX} credentials are the most: remove some");
        return Err(Error::invalid_argument(why));
    }
    Ok((vec![ClusterConfig { set, remove }.into()], Answer::Done))
}

#[cfg(test)]
mod tests {
    use levee_proto::ids::Nonce;

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        BASE64.decode(text).unwrap()
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let made = |iterations, salt: &[u8], salted: &[u8]| {
            Credential::new(Mechanism::Sha256, iterations, salt, salted)
        };
        assert!(made(4096, b"salt", &[0; 32]).is_ok() && made(16_384, b"s", &[0; 32]).is_ok());
        assert!(made(4095, b"salt", &[0; 32]).unwrap_err().contains("few"));
        assert!(made(16_385, b"salt", &[0; 32]).unwrap_err().contains("many"));
        assert!(made(4096, b"", &[0; 32]).unwrap_err().contains("salt"));
        assert!(made(4096, &[0; 257], &[0; 32]).unwrap_err().contains("salt"));
        assert!(made(4096, b"salt", &[0; 64]).unwrap_err().contains("32 bytes"));
        assert!(check_user("").is_err() && check_user(&"u".repeat(1025)).is_err());
    }

    /// User "user", password "pencil", as in RFC 7677 section 3; the keys were derived by another
    /// program.
    #[test]
    fn keys_are_those_of_the_rfc() {
        let salted = "xKSVEDI6tPlSysH6mUQZOeeOp01r6B3fcJbodRPcYV0=";
        let salt = bytes("W22ZaJ0SNY7soEsUEjb6gQ==");
        let made = Credential::new(Mechanism::Sha256, 4096, &salt, &bytes(salted)).unwrap();
        let text = made.text(Mechanism::Sha256);
        assert_eq!(
            text,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert_eq!(Credential::parse(Mechanism::Sha256, &text), Some(made.clone()));
        assert_eq!(Credential::parse(Mechanism::Sha512, &text), None);
        assert_eq!(format!("{made:?}"), "Credential { iterations: 4096, .. }");
    }

    #[test]
    fn a_user_has_one_credential_of_each_kind() {
        let mut state = MetaState::new(Nonce(1));
        let one = |mechanism: Mechanism| {
            Credential::new(mechanism, 8192, b"salt", &[7; 64][..mechanism.hash_bytes()]).unwrap()
        };
        let all_of = |user: &str| ScramChange {
            user: user.to_owned(),
            set: Mechanism::ALL.map(|mechanism| (mechanism, one(mechanism))).into(),
            ..Default::default()
        };
        let mut commit = |change: &ScramChange| {
            let (records, answer) = decide(&state, change).unwrap();
            records.iter().for_each(|record| state.apply(state.head + 1, record).unwrap());
            let users = all(&state);
            let users = users.iter().map(|(user, all)| ((*user).to_owned(), all.len()));
            (answer, users.collect::<Vec<_>>())
        };
        let strange = "a/b/SCRAM-SHA-512/";
        assert_eq!(commit(&all_of(strange)), (Answer::Done, vec![(strange.to_owned(), 2)]));
        let less = |remove: &[Mechanism]| ScramChange {
            user: strange.to_owned(),
            remove: remove.iter().copied().collect(),
            ..Default::default()
        };
        let left = vec![(strange.to_owned(), 1)];
        assert_eq!(commit(&less(&[Mechanism::Sha256])), (Answer::Done, left.clone()));
        // All or nothing: one of the two is gone already.
        assert_eq!(commit(&less(&Mechanism::ALL)), (Answer::NotThere, left));
    }
}
