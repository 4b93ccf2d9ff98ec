//! `GET /why`: reads what is asked, and says why a device has a row or lacks it.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery};
use axum::response::Json;
use highwater_shared::{Code, EntityName, Why};
use url::form_urlencoded;

use super::handlers::in_time;
use super::problem::Refusal;
use super::{Shared, State, callers, query};
use crate::caller::Caller;
use crate::fleet::NotFound;
use crate::limit::Limit;
use crate::page::{ReadError, Since};
use crate::why::{self, AskedKey, Hearer, Question, WhyError};

/// The parameters of `GET /why`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) since: Option<Since>,
    /// A device of the fleet, and whose it is, which operators may name.
    pub(super) device: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) entity: EntityName,
    pub(super) key: AskedKey,
}

/// `GET /why`
pub(super) async fn why(
    axum::extract::State(shared): State,
    Extension(caller): Extension<Caller>,
    RawQuery(text): RawQuery,
) -> Result<Json<Why>, Refusal> {
    let Parameters {
        since,
        device,
        owner,
        entity,
        key,
    } = parse(text.as_deref())?;
    let _turn = shared.turns.take(&caller)?;
    let (caller, hearer, since) = match device {
        None => {
            callers::asked(&caller, Some(vec![entity.clone()]))?;
            (caller, Hearer::Caller, since)
        }
        Some(_) if !caller.is_operator() => return Err(callers::for_operators()),
        Some(device) => {
            let (caller, its_own) = find(&shared, &device, owner.as_deref())?;
            (caller, Hearer::Operator, since.or(its_own))
        }
    };
    // Tombstones have no index by key: to look for one is a scan.
    let _scanning = Arc::clone(&shared.scans)
        .try_acquire_owned()
        .map_err(|_| ReadError::Limit(Limit::DigestsMax))?;
    let question = Question {
        since,
        caller,
        hearer,
        entity,
        key,
    };
    let answer = async { why::why(&shared.node, question).await.map_err(Refusal::from) };
    in_time(shared.options.request_time_max, answer).await.map(Json)
}

/// Whose a device is, and where it stands; what it has is not known where it has not said so yet.
fn find(shared: &Shared, device: &str, owner: Option<&str>) -> Result<(Caller, Option<Since>), Refusal> {
    let found = shared.fleet.find(device, owner).map_err(|error| {
        let detail = match error {
            NotFound::Nobody => {
                format!("device: none called {device:?} has named itself since the server started")
            }
            NotFound::Several => {
                format!("device: several callers have one called {device:?}; say which by `caller`")
            }
        };
        Refusal::new(Code::UnknownDevice, detail)
    })?;
    let since = Some(found.since).filter(|since| !since.is_empty());
    let since = since.map(|since| query::since(&since)).transpose()?;
    Ok((found.caller, since))
}

impl From<WhyError> for Refusal {
    fn from(error: WhyError) -> Self {
        match error {
            WhyError::InvalidKey(detail) => Self::new(Code::InvalidKey, detail),
            WhyError::Read(error) => error.into(),
        }
    }
}

/// Reads a query string. Of a parameter that comes twice the last holds, and others are passed over.
pub(super) fn parse(text: Option<&str>) -> Result<Parameters, Refusal> {
    let (mut since, mut named, mut key) = (None, None, None);
    let (mut device, mut owner) = (None, None);
    for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
        match &*name {
            "since" => since = Some(query::since(&value)?),
            "device" => device = Some(value.into_owned()),
            "caller" => owner = Some(value.into_owned()),
            "entity" => named = Some(query::entity(&value)?),
            "key" => {
                let read = AskedKey::read(&value);
                key = Some(read.map_err(|error| Refusal::new(Code::InvalidKey, format!("key: {error}")))?);
            }
            _ => {}
        }
    }
    let entity = named.ok_or_else(|| {
        let detail = "entity: name the entity that the row is of; GET /entities lists them";
        Refusal::new(Code::InvalidEntity, detail.to_owned())
    })?;
    let key = key.ok_or_else(|| {
        let detail = "key: name the row, by a JSON object of its key's columns with their values";
        Refusal::new(Code::InvalidKey, detail.to_owned())
    })?;
    Ok(Parameters {
        since,
        device,
        owner,
        entity,
        key,
    })
}
