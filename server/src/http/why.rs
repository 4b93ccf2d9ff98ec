//! `GET /why`: reads what is asked, and says why a device has a row or lacks it.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery};
use axum::response::Json;
use highwater_shared::{Code, EntityName, Why};
use url::form_urlencoded;

use super::handlers::in_time;
use super::problem::Refusal;
use super::{State, callers, query};
use crate::caller::Caller;
use crate::limit::Limit;
use crate::page::{ReadError, Since};
use crate::why::{self, AskedKey, Hearer, Question, WhyError};

/// The parameters of `GET /why`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) since: Option<Since>,
    pub(super) entity: EntityName,
    pub(super) key: AskedKey,
}

/// `GET /why`
pub(super) async fn why(
    axum::extract::State(shared): State,
    Extension(caller): Extension<Caller>,
    RawQuery(text): RawQuery,
) -> Result<Json<Why>, Refusal> {
    let Parameters { since, entity, key } = parse(text.as_deref())?;
    callers::asked(&caller, Some(vec![entity.clone()]))?;
    let _turn = shared.turns.take(&caller)?;
    // Tombstones have no index by key: to look for one is a scan.
    let _scanning = Arc::clone(&shared.scans)
        .try_acquire_owned()
        .map_err(|_| ReadError::Limit(Limit::DigestsMax))?;
    let question = Question {
        since,
        caller,
        hearer: Hearer::Caller,
        entity,
        key,
    };
    let answer = async { why::why(&shared.node, question).await.map_err(Refusal::from) };
    in_time(shared.options.request_time_max, answer).await.map(Json)
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
    for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
        match &*name {
            "since" => since = Some(query::since(&value)?),
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
    Ok(Parameters { since, entity, key })
}
