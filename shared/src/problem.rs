//! Errors on the wire: RFC 9457 problems with a stable `code`.

use serde::de::IntoDeserializer as _;
use serde::de::value::StringDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

/// The body of every error, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A URI for the kind of problem; always `about:blank`, since `code` says it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The standard phrase of the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What a program goes by. A later server may have codes that are not known here.
    #[serde(deserialize_with = "known")]
    #[cfg_attr(feature = "openapi", schema(value_type = Code))]
    pub code: Option<Code>,
    /// What was wrong, where, and what to do.
    pub detail: String,
    /// Why the cursor cannot be served, with `resync_required`. A later server may have reasons that are not known here.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub reason: Option<ResyncReason>,
    /// With `source_changed`: whether a cursor from before the source changed may still be served, since it is known
    /// where the history of this one ended and the present one began. An earlier cursor that is served tells what
    /// the source has done since; what the caller has done since is to be undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub earlier: bool,
}

/// What went wrong, as a program reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: `since` is neither a date nor a cursor.
    InvalidSince,
    /// 400: `limit` is not a number of 1 or more.
    InvalidLimit,
    /// 400: `wait` is not a number from 0 to 60, or not served.
    InvalidWait,
    /// 400: `purged` or `rescoped` has none of the values that it takes.
    InvalidChoice,
    /// 400: `entity` is empty or not text.
    InvalidEntity,
    /// 400: `key` is no key of the entity.
    InvalidKey,
    /// 400: the body is not what the path takes.
    InvalidBody,
    /// 401: the caller did not say who it is.
    Unauthenticated,
    /// 403: the caller may not read the entity.
    ForbiddenEntity,
    /// 403: what is at this path is not for this caller.
    Forbidden,
    /// 404: no entity has this name.
    UnknownEntity,
    /// 404: no device has this name, or several callers have one.
    UnknownDevice,
    /// 404: nothing is at this path.
    NotFound,
    /// 405: the path takes another method.
    MethodNotAllowed,
    /// 406: none of the accepted media types can be served.
    NotAcceptable,
    /// 410: the cursor cannot be served; ask again without `since`.
    ResyncRequired,
    /// 413: the body is larger than the server lets any be.
    BodyTooLarge,
    /// 414: the address is longer than the server takes.
    UrlTooLong,
    /// 426: the address takes TLS only.
    TlsRequired,
    /// 429: too many requests from this caller.
    TooManyRequests,
    /// 431: address and headers together are larger than the server takes.
    HeadTooLarge,
    /// 503: cannot be answered now; try again after `Retry-After`.
    Unavailable,
    /// 500: a fault of the server's own.
    Internal,
}

impl Code {
    /// The code as it stands on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidSince => "invalid_since",
            Self::InvalidLimit => "invalid_limit",
            Self::InvalidWait => "invalid_wait",
            Self::InvalidChoice => "invalid_choice",
            Self::InvalidEntity => "invalid_entity",
            Self::InvalidKey => "invalid_key",
            Self::InvalidBody => "invalid_body",
            Self::Unauthenticated => "unauthenticated",
            Self::ForbiddenEntity => "forbidden_entity",
            Self::Forbidden => "forbidden",
            Self::UnknownEntity => "unknown_entity",
            Self::UnknownDevice => "unknown_device",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotAcceptable => "not_acceptable",
            Self::ResyncRequired => "resync_required",
            Self::BodyTooLarge => "body_too_large",
            Self::UrlTooLong => "url_too_long",
            Self::TlsRequired => "tls_required",
            Self::TooManyRequests => "too_many_requests",
            Self::HeadTooLarge => "head_too_large",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidSince
            | Self::InvalidLimit
            | Self::InvalidWait
            | Self::InvalidChoice
            | Self::InvalidEntity
            | Self::InvalidKey
            | Self::InvalidBody => 400,
            Self::Unauthenticated => 401,
            Self::ForbiddenEntity | Self::Forbidden => 403,
            Self::UnknownEntity | Self::UnknownDevice | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::ResyncRequired => 410,
            Self::BodyTooLarge => 413,
            Self::UrlTooLong => 414,
            Self::TlsRequired => 426,
            Self::TooManyRequests => 429,
            Self::HeadTooLarge => 431,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// Why a cursor cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The cursor comes from another source.
    SourceChanged,
    /// The cursor was made for another scope.
    ScopeChanged,
}

/// What has this name, where that is known.
fn known<'de, T: Deserialize<'de>, D: Deserializer<'de>>(name: D) -> Result<Option<T>, D::Error> {
    let name = Option::<String>::deserialize(name)?;
    Ok(name.and_then(|name| {
        let name: StringDeserializer<serde::de::value::Error> = name.into_deserializer();
        T::deserialize(name).ok()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str, reason: &str) -> Problem {
        let problem = format!(
            r#"{{"type": "about:blank", "title": "", "status": 410, "code": {code}, "detail": "", "reason": {reason}}}"#
        );
        serde_json::from_str(&problem).expect("a problem")
    }

    #[test]
    fn a_reason_of_a_later_server_is_none() {
        let reason = |name| problem("\"resync_required\"", name).reason;
        assert_eq!(reason("\"scope_changed\""), Some(ResyncReason::ScopeChanged));
        assert_eq!(reason("\"history_rewritten\""), None);
        assert_eq!(reason("null"), None);
    }

    #[test]
    fn a_code_of_a_later_server_is_none_and_a_problem_without_one_is_anothers() {
        let code = |name| problem(name, "null").code;
        assert_eq!(code("\"unavailable\""), Some(Code::Unavailable));
        assert_eq!(code("\"too_early\""), None);
        let of_another = r#"{"type": "about:blank", "title": "", "status": 404, "detail": ""}"#;
        assert!(serde_json::from_str::<Problem>(of_another).is_err());
    }

    #[test]
    fn a_code_is_called_as_it_stands_on_the_wire() {
        let codes = [
            Code::InvalidSince,
            Code::InvalidLimit,
            Code::InvalidWait,
            Code::InvalidChoice,
            Code::InvalidEntity,
            Code::InvalidKey,
            Code::InvalidBody,
            Code::Unauthenticated,
            Code::ForbiddenEntity,
            Code::Forbidden,
            Code::UnknownEntity,
            Code::UnknownDevice,
            Code::NotFound,
            Code::MethodNotAllowed,
            Code::NotAcceptable,
            Code::ResyncRequired,
            Code::BodyTooLarge,
            Code::UrlTooLong,
            Code::TlsRequired,
            Code::TooManyRequests,
            Code::HeadTooLarge,
            Code::Unavailable,
            Code::Internal,
        ];
        for code in codes {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
