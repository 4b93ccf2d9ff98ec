//! `GET /openapi.json`: the interface for programs that make clients, tests or pages of it.
//!
//! Schemas are those of the types that the handlers send, bounds are the constants that they
//! check, and statuses follow from the codes that a route may answer with.

mod answers;
mod parameters;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use highwater_shared::{
    BlockHeader, COPY_MEDIA_TYPE, Changes, Code, DigestsRequest, EntityList, JSON_MEDIA_TYPE, Problem,
    Trailer, Why, status::Status,
};
use utoipa::ToSchema;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{OperationBuilder, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi,
    OpenApiBuilder, PathsBuilder, Ref, RefOr, Required, Schema, Type,
};

use self::answers::{Answers, Form};
use super::options::ServeOptions;

/// The form of metrics, without its parameters.
const OPEN_METRICS_MEDIA_TYPE: &str = "application/openmetrics-text";

/// How a caller says who it is.
const BEARER: &str = "bearer";

/// How an operator may say it besides.
const BASIC: &str = "basic";

const ABOUT: &str = "What changed in Postgres tables since a cursor, exactly. How a pull goes, what `reset` means and how \
     values are written is told in docs/protocol.md. Every error is a problem (RFC 9457) with a `code` for \
     programs; every other path is answered with 404 `not_found`, and every other method than GET and HEAD, or POST for `/digests`, \
     with 405 `method_not_allowed`. On an address that takes TLS only, a plain request gets 426 \
     `tls_required`.";

/// The document of a server with these options, which has its metrics among the other routes or on an
/// address of their own.
pub(super) fn document(options: &ServeOptions, has_metrics: bool) -> Bytes {
    let document = openapi(
        options.authenticator.is_some(),
        options.page_rows_max,
        has_metrics,
    );
    // It cannot fail: all keys are text, and no number is beyond those of JSON.
    Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
}

fn openapi(asks_callers: bool, page_rows_max: u64, has_metrics: bool) -> OpenApi {
    let mut schemas = Vec::new();
    add::<Changes>(&mut schemas);
    add::<DigestsRequest>(&mut schemas);
    add::<EntityList>(&mut schemas);
    add::<Why>(&mut schemas);
    add::<Problem>(&mut schemas);
    add::<Status>(&mut schemas);
    // The lines of a page in COPY blocks that are JSON.
    add::<BlockHeader>(&mut schemas);
    add::<Trailer>(&mut schemas);
    let components = ComponentsBuilder::new().schemas_from_iter(schemas);
    let components = answers::headers(parameters::schemas(components));
    let asks = if asks_callers {
        Asks::Callers
    } else {
        Asks::NobodyHere
    };
    let mut paths = PathsBuilder::new()
        .path("/changes", get(changes(page_rows_max), asks))
        .path("/digests", route(HttpMethod::Post, digests(), asks))
        .path("/entities", get(entities(), asks))
        .path("/why", get(why(), asks.browsers()))
        .path("/status", get(status(), asks.browsers()))
        .path(
            "/",
            get(file("page", "The page for people.", "text/html"), asks.browsers()),
        )
        .path(
            "/page.js",
            get(
                file("script", "What the page does.", "text/javascript"),
                asks.browsers(),
            ),
        )
        .path(
            "/page.css",
            get(file("style", "How the page looks.", "text/css"), asks.browsers()),
        )
        .path("/healthz", get(healthz(), Asks::Nobody))
        .path("/readyz", get(readyz(), Asks::Nobody))
        .path("/openapi.json", get(itself(), Asks::Nobody));
    if has_metrics {
        paths = paths.path("/metrics", get(metrics(), asks));
    }
    let license = LicenseBuilder::new()
        .name(env!("CARGO_PKG_LICENSE"))
        .identifier(Some(env!("CARGO_PKG_LICENSE")));
    let info = InfoBuilder::new()
        .title("Highwater")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(license.build()));
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key, or a token (JWT), of a server that asks who calls.",
        ));
    let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some(
        "For operators: any user name, and their API key or token as the password, which browsers ask for.",
    ));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(
            components
                .security_scheme(BEARER, SecurityScheme::Http(bearer.build()))
                .security_scheme(BASIC, SecurityScheme::Http(basic.build()))
                .build(),
        ))
        .build()
}

/// Adds the schema of a type, and those of the types in it.
fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// Who may ask.
#[derive(Clone, Copy)]
enum Asks {
    /// Everybody, and a credential is not looked at.
    Nobody,
    /// Everybody, since this server has no keys to know callers by.
    NobodyHere,
    /// Whoever is known.
    Callers,
    /// Whoever is known, also by what a browser sends.
    Browsers,
}

impl Asks {
    /// The same for what the page shows or asks.
    fn browsers(self) -> Self {
        match self {
            Self::Callers => Self::Browsers,
            others => others,
        }
    }
}

fn get(operation: OperationBuilder, asks: Asks) -> PathItem {
    route(HttpMethod::Get, operation, asks)
}

fn route(method: HttpMethod, operation: OperationBuilder, asks: Asks) -> PathItem {
    let bearer = SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, []);
    let operation = match asks {
        Asks::Nobody => operation.securities(Some([])),
        Asks::NobodyHere => operation.securities(Some([SecurityRequirement::default(), bearer])),
        Asks::Callers => operation.securities(Some([bearer])),
        Asks::Browsers => {
            let basic = SecurityRequirement::new::<_, [&str; 0], &str>(BASIC, []);
            operation.securities(Some([basic, bearer]))
        }
    };
    PathItem::new(method, operation)
}

fn changes(page_rows_max: u64) -> OperationBuilder {
    let forms: [Form; 2] = [
        (JSON_MEDIA_TYPE, Ref::from_schema_name("Changes").into()),
        (COPY_MEDIA_TYPE, blocks().into()),
    ];
    let next = LinkBuilder::new()
        .operation_id("changes")
        .parameter("since", "$response.body#/next")
        .description("The next page while `more` is true; after that, what has changed since.");
    let answers = Answers::new()
        .add("200", answers::page("A page.", forms).link("next", next.build()))
        .add(
            "304",
            answers::page("The page is still the one that `If-None-Match` names.", []),
        )
        .problems(&[
            Code::InvalidSince,
            Code::InvalidLimit,
            Code::InvalidWait,
            Code::InvalidChoice,
            Code::InvalidEntity,
            Code::Unauthenticated,
            Code::ForbiddenEntity,
            Code::UnknownEntity,
            Code::NotAcceptable,
            Code::ResyncRequired,
            Code::TooManyRequests,
            Code::Unavailable,
        ]);
    let operation = operation(
        "changes",
        "What changed since a cursor or a date: one page of a pull.",
    );
    parameters::of_changes(operation, page_rows_max).responses(answers.build())
}

/// A body in COPY blocks.
fn blocks() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(
        "Lines: of each block a `BlockHeader`, rows as Postgres' `COPY` prints them, and `\\.`; at the end a \
         `Trailer`. Without that the body is incomplete, and nothing of it may be kept.",
    ))
}

fn digests() -> OperationBuilder {
    let asked = ContentBuilder::new().schema(Some(Ref::from_schema_name("DigestsRequest")));
    let body = RequestBodyBuilder::new()
        .content(JSON_MEDIA_TYPE, asked.build())
        .required(Some(Required::True));
    let answers = Answers::new()
        .add(
            "200",
            answers::answer("Digests, keys or rows.", [(COPY_MEDIA_TYPE, blocks().into())]),
        )
        .problems(&[
            Code::InvalidSince,
            Code::InvalidBody,
            Code::Unauthenticated,
            Code::ForbiddenEntity,
            Code::UnknownEntity,
            Code::NotAcceptable,
            Code::ResyncRequired,
            Code::TooManyRequests,
            Code::Unavailable,
        ]);
    let about = "Digests of the rows that a cursor has seen, by parts of the hashes of their keys, to compare a store with.";
    operation("digests", about)
        .request_body(Some(body.build()))
        .responses(answers.build())
}

fn entities() -> OperationBuilder {
    let list = (JSON_MEDIA_TYPE, Ref::from_schema_name("EntityList").into());
    let answers = Answers::new()
        .add("200", answers::answer("The entities.", [list]))
        .problems(&[Code::Unauthenticated, Code::TooManyRequests, Code::Unavailable]);
    operation("entities", "Every entity that the caller may read, by name.").responses(answers.build())
}

fn why() -> OperationBuilder {
    let answer = (JSON_MEDIA_TYPE, Ref::from_schema_name("Why").into());
    let answers = Answers::new()
        .add("200", answers::answer("What is so, and what to do.", [answer]))
        .problems(&[
            Code::InvalidSince,
            Code::InvalidEntity,
            Code::InvalidKey,
            Code::Unauthenticated,
            Code::ForbiddenEntity,
            Code::Forbidden,
            Code::UnknownEntity,
            Code::UnknownDevice,
            Code::TooManyRequests,
            Code::Unavailable,
        ]);
    let about =
        "Why a device that has a cursor, or a date, has one row or lacks it, as far as the caller may see.";
    parameters::of_why(operation("why", about)).responses(answers.build())
}

fn metrics() -> OperationBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let answers = Answers::new()
        .add(
            "200",
            answers::answer("The metrics.", [(OPEN_METRICS_MEDIA_TYPE, text.into())]),
        )
        .problems(&[Code::Unauthenticated, Code::Forbidden, Code::TooManyRequests]);
    let about = "What the server does and how it fares, for Prometheus. Where callers are asked who they are it is for \
                 nobody here.";
    operation("metrics", about).responses(answers.build())
}

fn status() -> OperationBuilder {
    let status = (JSON_MEDIA_TYPE, Ref::from_schema_name("Status").into());
    let answers = Answers::new()
        .add("200", answers::answer("How it fares.", [status]))
        .problems(&[Code::InvalidLimit])
        .problems(&FOR_OPERATORS);
    let about = "How the server, the source, the entities and the devices fare, for operators.";
    parameters::of_status(operation("status", about)).responses(answers.build())
}

/// What those are told who are no operators.
const FOR_OPERATORS: [Code; 4] = [
    Code::Unauthenticated,
    Code::Forbidden,
    Code::TooManyRequests,
    Code::Unavailable,
];

/// A file of the page.
fn file(id: &str, about: &str, media_type: &'static str) -> OperationBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let answers = Answers::new()
        .add("200", answers::answer(about, [(media_type, text.into())]))
        .problems(&FOR_OPERATORS);
    operation(id, about).responses(answers.build())
}

fn healthz() -> OperationBuilder {
    let answers = Answers::new().add("200", answers::text("It does.", "ok\n"));
    operation("healthz", "Whether the process answers.").responses(answers.build())
}

fn readyz() -> OperationBuilder {
    let answers = Answers::new()
        .add("200", answers::text("It can.", "ready\n"))
        .problems(&[Code::Unavailable]);
    operation("readyz", "Whether it can answer from the database too.").responses(answers.build())
}

fn itself() -> OperationBuilder {
    let object = (
        JSON_MEDIA_TYPE,
        ObjectBuilder::new().schema_type(Type::Object).into(),
    );
    let answers = Answers::new().add("200", answers::answer("The document.", [object]));
    operation("openapi", "This document.").responses(answers.build())
}

fn operation(id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new()
        .operation_id(Some(id))
        .summary(Some(summary))
}
