//! Why does this store not have that row? Looks into the store, asks the server with its cursor, and holds the one
//! against the other.

mod decide;
mod key;
mod words;

use std::path::Path;

use highwater_shared::{Code, EntityName, Timestamp, Why};

pub use self::decide::Verdict;
use self::decide::{Held, decide};
pub use self::key::AskedKey;
use crate::error::Error;
use crate::remote::HttpRemote;
use crate::store::{HeldRow, RowLook, look_for};
use crate::sync_helper::State;

/// How often the store is looked at where a pull goes on meanwhile.
const LOOKS_MAX: usize = 3;

/// Why a store has a row or lacks it.
#[derive(Debug)]
#[non_exhaustive]
pub struct WhyReport {
    /// The entity.
    pub entity: EntityName,
    /// What is so.
    pub verdict: Verdict,
    /// How the entity stands in the store; `None` where it was never pulled.
    pub state: Option<State>,
    /// When a pull last ended.
    pub pulled_at: Option<Timestamp>,
    /// The row that readers of the store see.
    pub row: Option<HeldRow>,
    /// What the server says, asked with the store's cursor; or why it did not.
    pub server: Result<Why, Error>,
    /// What is so, in sentences for people.
    pub what: Vec<String>,
    /// What to do.
    pub remedy: String,
}

/// Answers the question for the store at `path`, beside its writer.
pub(crate) async fn why(
    remote: &HttpRemote,
    path: &Path,
    entity: EntityName,
    key: &AskedKey,
) -> Result<WhyReport, Error> {
    let mut looked = look(path, &entity, key)?;
    let mut server = ask(remote, path, &entity, key, &looked).await?;
    for _ in 1..LOOKS_MAX {
        // The server writes the key as it is stored: an id in capitals, or a date in another zone.
        let Ok(told) = &server else { break };
        let again = look(path, &entity, &told.key.get().parse()?)?;
        let cursor = |looked: &RowLook| looked.helper.as_ref().and_then(|helper| helper.cursor.clone());
        let is_same = cursor(&again) == cursor(&looked);
        looked = again;
        if is_same {
            break;
        }
        server = ask(remote, path, &entity, key, &looked).await?;
    }
    let helper = looked.helper.as_ref();
    let held = Held {
        state: helper.map(|helper| helper.state),
        row: looked.row,
        is_arriving: looked.is_arriving,
    };
    let verdict = decide(held, server.as_ref().ok());
    let pulled_at = helper.and_then(|helper| helper.pulled_at);
    let (what, remedy) = words::say(&entity, held, pulled_at, verdict, &server);
    Ok(WhyReport {
        entity,
        verdict,
        state: held.state,
        pulled_at,
        row: held.row,
        server,
        what,
        remedy,
    })
}

fn look(path: &Path, entity: &EntityName, key: &AskedKey) -> Result<RowLook, Error> {
    look_for(path, entity, |columns| key.values(columns))
}

/// Asks with what the store has. The outer error is a fault of the question; the inner one says why the server
/// did not answer.
async fn ask(
    remote: &HttpRemote,
    path: &Path,
    entity: &EntityName,
    key: &AskedKey,
    looked: &RowLook,
) -> Result<Result<Why, Error>, Error> {
    let helper = looked.helper.as_ref();
    let cursor = helper.and_then(|helper| helper.cursor.as_ref());
    let nothing = Timestamp::EPOCH.to_string();
    let since = cursor.map_or(nothing.as_str(), |cursor| cursor.as_str());
    let columns = looked.key_columns.as_ref();
    let columns: Option<Vec<&str>> = columns.map(|names| names.iter().map(String::as_str).collect());
    let key = key.on_the_wire(columns.as_deref());
    match remote.why(entity, &key, since).await {
        Ok((why, source)) => match helper.and_then(|helper| helper.source.as_ref()) {
            Some(kept) if *kept != source => Err(Error::OtherSource {
                store: path.to_owned(),
                kept: kept.as_str().to_owned(),
                offered: source.as_str().to_owned(),
            }),
            _ => Ok(Ok(why)),
        },
        Err(Error::Refused {
            code: Some(Code::InvalidKey),
            detail,
            ..
        }) => Err(Error::Key { reason: detail }),
        Err(error) => Ok(Err(error)),
    }
}
