//! What a caller may be answered: statuses, forms and headers.

use std::collections::BTreeMap;

use highwater_shared::{Code, PROBLEM_MEDIA_TYPE, SOURCE_HEADER};
use serde_json::Value;
use utoipa::openapi::schema::AllOfBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, ResponseBuilder, Responses,
    ResponsesBuilder, Schema, SchemaFormat, Type,
};

/// Every header that may stand on an answer: its name, the name of its component, and what it says.
const HEADERS: [(&str, &str, &str); 7] = [
    (
        SOURCE_HEADER,
        "Source",
        "The own id of the source. A store must never mix two of them. Absent with 426.",
    ),
    (
        "x-request-id",
        "RequestId",
        "The id of the request in the server's log: the one that came with the request, else a new one. Absent \
         with 426.",
    ),
    (
        "cache-control",
        "CacheControl",
        "Whether caches may keep the response, and for how long.",
    ),
    ("vary", "Vary", "What of the request chooses the body."),
    (
        "etag",
        "ETag",
        "Names a page that the server has at hand as a whole; a larger one has none.",
    ),
    (
        "retry-after",
        "RetryAfter",
        "Seconds to wait before the request is repeated.",
    ),
    ("www-authenticate", "WwwAuthenticate", "How to say who calls."),
];

/// What every answer says.
const OF_ALL: &[&str] = &[SOURCE_HEADER, "x-request-id", "cache-control"];

/// What a page says besides.
const OF_PAGES: &[&str] = &["vary", "etag"];

/// A form of an answer: its media type, and what is in it.
pub(super) type Form = (&'static str, RefOr<Schema>);

/// The answers of a route.
#[derive(Default)]
pub(super) struct Answers {
    answers: ResponsesBuilder,
    /// By status, the codes of problems.
    codes: BTreeMap<u16, Vec<Code>>,
}

impl Answers {
    /// Those that every route has.
    pub(super) fn new() -> Self {
        Self::default().problems(&[
            Code::BodyTooLarge,
            Code::UrlTooLong,
            Code::HeadTooLarge,
            Code::TlsRequired,
            Code::Internal,
        ])
    }

    pub(super) fn add(mut self, status: &str, answer: ResponseBuilder) -> Self {
        self.answers = self.answers.response(status, answer.build());
        self
    }

    /// Problems with these codes.
    pub(super) fn problems(mut self, codes: &[Code]) -> Self {
        for code in codes {
            self.codes.entry(code.status()).or_default().push(*code);
        }
        self
    }

    pub(super) fn build(mut self) -> Responses {
        for (status, codes) in std::mem::take(&mut self.codes) {
            let more: &[&str] = match status {
                401 => &["www-authenticate"],
                429 | 503 => &["retry-after"],
                _ => &[],
            };
            let names: Vec<String> = codes.iter().map(|code| format!("`{}`", code.name())).collect();
            let about = format!("A problem with the code {}.", names.join(", "));
            let form = (PROBLEM_MEDIA_TYPE, problem(status, &codes));
            self = self.add(&status.to_string(), with(&about, more, [form]));
        }
        self.answers.build()
    }
}

/// An answer in these forms.
pub(super) fn answer(about: &str, forms: impl IntoIterator<Item = Form>) -> ResponseBuilder {
    with(about, &[], forms)
}

/// An answer that caches may keep.
pub(super) fn page(about: &str, forms: impl IntoIterator<Item = Form>) -> ResponseBuilder {
    with(about, OF_PAGES, forms)
}

/// An answer in plain text that is always the same.
pub(super) fn text(about: &str, says: &str) -> ResponseBuilder {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some([says]));
    answer(about, [("text/plain", schema.into())])
}

fn with(about: &str, headers: &[&str], forms: impl IntoIterator<Item = Form>) -> ResponseBuilder {
    let mut response = ResponseBuilder::new().description(about);
    for (header, component, _) in HEADERS {
        if OF_ALL.contains(&header) || headers.contains(&header) {
            let component = Ref::new(format!("#/components/headers/{component}"));
            response = response.header_ref(header, component);
        }
    }
    for (media_type, schema) in forms {
        response = response.content(media_type, ContentBuilder::new().schema(Some(schema)).build());
    }
    response
}

/// The headers that the answers refer to.
pub(super) fn headers(components: ComponentsBuilder) -> ComponentsBuilder {
    HEADERS
        .iter()
        .fold(components, |components, (name, component, about)| {
            let schema = match *name {
                "retry-after" => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)),
                SOURCE_HEADER => ObjectBuilder::new()
                    .schema_type(Type::String)
                    .format(Some(SchemaFormat::Custom("uuid".to_owned()))),
                _ => ObjectBuilder::new().schema_type(Type::String),
            };
            let header = HeaderBuilder::new()
                .schema(Some(schema))
                .description(Some(*about));
            components.header(*component, header.build())
        })
}

/// A problem of this status, and with one of these codes.
fn problem(status: u16, codes: &[Code]) -> RefOr<Schema> {
    let status = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .enum_values(Some([Value::from(status)]));
    let code = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes.iter().map(|code| code.name())));
    let mut narrowed = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("status", status)
        .property("code", code);
    if codes.contains(&Code::ResyncRequired) {
        narrowed = narrowed.required("reason");
    }
    AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(narrowed)
        .into()
}
