//! DescribeUserScramCredentials and AlterUserScramCredentials (KIP-554).
//!
//! Credentials are kept and shown, without what is secret; nobody logs in with them yet.

use std::collections::BTreeMap;

use futures::StreamExt;
use levee_kafka::ErrorCode;
use levee_kafka::messages::alter_user_scram_credentials_request::AlterUserScramCredentialsRequest;
use levee_kafka::messages::alter_user_scram_credentials_response::{
    AlterUserScramCredentialsResponse, AlterUserScramCredentialsResult,
};
use levee_kafka::messages::describe_user_scram_credentials_request::DescribeUserScramCredentialsRequest;
use levee_kafka::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResponse, DescribeUserScramCredentialsResult,
};

use super::{Ask, code};
use crate::cluster::message::{Answer, Request};
use crate::cluster::scram::{self, Credential, Mechanism, ScramChange};

/// Changes of one request that go to the controller together: they share its slots.
const AT_ONCE: usize = 64;

/// A refusal: Kafka's code, and a text for people.
type Refused = (ErrorCode, String);

fn number(mechanism: Mechanism) -> i8 {
    match mechanism {
        Mechanism::Sha256 => 1,
        Mechanism::Sha512 => 2,
    }
}

fn mechanism_of(wanted: i8) -> Result<Mechanism, Refused> {
    let found = Mechanism::ALL.into_iter().find(|mechanism| number(*mechanism) == wanted);
    found.ok_or_else(|| {
        let why = format!("Unknown SCRAM mechanism {wanted}: 1 (SHA-256) and 2 (SHA-512) are");
        (ErrorCode::UnsupportedSaslMechanism, why)
    })
}

pub(super) async fn describe(
    ask: &Ask,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let state = ask.node().view.read();
    let known = scram::all(&state);
    let asked = request.users.unwrap_or_default();
    let mut times = BTreeMap::<&str, usize>::new();
    match asked.is_empty() {
        true => times.extend(known.keys().map(|user| (*user, 1))),
        false => asked.iter().for_each(|user| *times.entry(&user.name).or_default() += 1),
    }
    let one = |(user, times): (&str, usize)| {
        let refused = |code: ErrorCode, why: &str| DescribeUserScramCredentialsResult {
            user: user.to_owned(),
            error_code: code.into(),
            error_message: Some(format!("{why}: {user}")),
            ..Default::default()
        };
        if times > 1 {
            return refused(ErrorCode::DuplicateResource, "the request names a user twice");
        }
        let Some(credentials) = known.get(user) else {
            return refused(ErrorCode::ResourceNotFound, "a user without credentials");
        };
        let info = |(mechanism, credential): (&Mechanism, &Credential)| CredentialInfo {
            mechanism: number(*mechanism),
            iterations: credential.iterations,
        };
        DescribeUserScramCredentialsResult {
            user: user.to_owned(),
            credential_infos: credentials.iter().map(info).collect(),
            ..Default::default()
        }
    };
    let results = times.into_iter().map(one).collect();
    DescribeUserScramCredentialsResponse { results, ..Default::default() }
}

pub(super) async fn alter(
    ask: &Ask,
    request: AlterUserScramCredentialsRequest,
) -> AlterUserScramCredentialsResponse {
    let one = async |(user, change): (String, Result<ScramChange, Refused>)| {
        let done = match change {
            Ok(change) => apply(ask, change).await,
            Err(refused) => Err(refused),
        };
        let (error_code, error_message) = match done {
            Ok(()) => (0, None),
            Err((code, message)) => (code.into(), Some(message)),
        };
        AlterUserScramCredentialsResult { user, error_code, error_message }
    };
    let results = futures::stream::iter(changes(request)).map(one).buffered(AT_ONCE);
    AlterUserScramCredentialsResponse { results: results.collect().await, ..Default::default() }
}

async fn apply(ask: &Ask, change: ScramChange) -> Result<(), Refused> {
    match ask.node().commit(Request::AlterScram(change)).await {
        Ok(Answer::NotThere) => {
            let why = "Attempt to delete a user credential that does not exist";
            Err((ErrorCode::ResourceNotFound, why.into()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err((code(&error), error.to_string())),
    }
}

/// What the request wants of each user; one thing that is wrong with it stops all of it.
fn changes(
    request: AlterUserScramCredentialsRequest,
) -> BTreeMap<String, Result<ScramChange, Refused>> {
    let mut changes = BTreeMap::<String, Result<ScramChange, Refused>>::new();
    let mut with =
        |user: String, alter: &mut dyn FnMut(&mut ScramChange) -> Result<(), Refused>| {
            let new = || {
                let new = ScramChange { user: user.clone(), ..Default::default() };
                let checked = scram::check_user(&user);
                checked.map(|()| new).map_err(|why| (ErrorCode::UnacceptableCredential, why))
            };
            let change = changes.entry(user.clone()).or_insert_with(new);
            let altered = match change {
                Ok(change) => alter(change),
                Err(_) => Ok(()),
            };
            if let Err(refused) = altered {
                *change = Err(refused);
            }
        };
    for deletion in request.deletions {
        with(deletion.name, &mut |change| {
            let mechanism = mechanism_of(deletion.mechanism)?;
            match change.remove.insert(mechanism) {
                true => Ok(()),
                false => Err(twice()),
            }
        });
    }
    for wanted in request.upsertions {
        with(wanted.name, &mut |change| {
            let mechanism = mechanism_of(wanted.mechanism)?;
            let made = Credential::new(
                mechanism,
                wanted.iterations,
                &wanted.salt,
                &wanted.salted_password,
            );
            let credential = made.map_err(|why| (ErrorCode::UnacceptableCredential, why))?;
            let is_new = change.set.insert(mechanism, credential).is_none();
            match is_new && !change.remove.contains(&mechanism) {
                true => Ok(()),
                false => Err(twice()),
            }
        });
    }
    changes
}

fn twice() -> Refused {
    let why = "A user credential cannot be altered twice in the same request";
    (ErrorCode::DuplicateResource, why.into())
}
