//! What a caller may send, with the bounds that `query` checks.

use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{AnyOfBuilder, SchemaType};
use utoipa::openapi::{
    ArrayBuilder, ComponentsBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Required, Schema, SchemaFormat,
    Type,
};

use crate::cursor::CURSOR_CHARS_MAX;
use crate::http::query::WAIT_SECONDS_MAX;
use crate::http::status::{DEVICES, DEVICES_TOLD_MAX};
use crate::page::PAGE_ROWS;

/// What a cursor is written with.
const CURSOR_PATTERN: &str = "^[A-Za-z0-9_-]+$";

/// What no name in the parameter `entity` holds: commas, since they stand between names, and control characters.
const NAME_PATTERN: &str = r"^[^,\u0000-\u001F\u007F-\u009F]+$";

/// What no name has where one is sent alone: control characters.
const ONE_NAME_PATTERN: &str = r"^[^\u0000-\u001F\u007F-\u009F]+$";

/// The schemas that only parameters have.
pub(super) fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    let cursor = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(
            "The `next` of an earlier page. Nothing in it is for the client.",
        ))
        .pattern(Some(CURSOR_PATTERN))
        .max_length(Some(CURSOR_CHARS_MAX));
    components.schema("Cursor", cursor)
}

/// The parameters of `GET /changes`.
pub(super) fn of_changes(operation: OperationBuilder, page_rows_max: u64) -> OperationBuilder {
    let since = since("What changed later. 1970-01-01T00:00:00Z means the same as no `since`.");
    let name = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(NAME_PATTERN));
    let entity = ArrayBuilder::new().items(name).min_items(Some(1));
    let limit = whole_number()
        .minimum(Some(1))
        .default(Some(PAGE_ROWS.min(page_rows_max).into()));
    let wait = whole_number()
        .minimum(Some(0))
        .maximum(Some(usize::try_from(WAIT_SECONDS_MAX).unwrap_or(usize::MAX)))
        .default(Some(0.into()));
    let purged = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["reset", "keys"]))
        .default(Some("reset".into()));
    let rescoped = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["resync", "rows"]))
        .default(Some("resync".into()));
    let more = format!(
        "The most rows in the page; above {page_rows_max} it is lowered to that. A page may hold fewer, and a \
         `reset` does not count."
    );
    let of_entity = query(
        "entity",
        "The names of entities; one value may hold several with commas between them. Absent: all that the \
         caller may read.",
        entity,
    );
    operation
        .parameter(query("since", "Absent: everything.", since))
        .parameter(
            query(
                "held",
                "Later cursors that some of the caller's rows go by, where it goes on from an earlier one: without what \
                 they have seen there is no answer.",
                ArrayBuilder::new().items(Ref::from_schema_name("Cursor")),
            )
            .style(Some(ParameterStyle::Form))
            .explode(Some(true)),
        )
        .parameter(query(
            "purged",
            "How deletions are told of that were purged before the caller saw them: `reset`, the entity begins anew; `keys`, \
             as other deletions are, as long as their keys are kept.",
            purged,
        ))
        .parameter(query(
            "rescoped",
            "What a cursor is answered whose caller may see other rows than before: `resync`, 410; `rows`, what came and which \
             are left, in COPY blocks only.",
            rescoped,
        ))
        .parameter(of_entity.style(Some(ParameterStyle::Form)).explode(Some(true)))
        .parameter(query("limit", &more, limit))
        .parameter(query(
            "wait",
            "Seconds: while nothing is new for this caller, the request is held that long at most.",
            wait,
        ))
        .parameter(header(
            "If-None-Match",
            "The `ETag` of a page that the caller has, answered with 304 while it is still that one.",
        ))
        .parameter(header(
            "Highwater-Client",
            "The device that asks, as a structured field (RFC 9651): its name, and as parameters the `version` of its \
             client and the code of the error that its last attempt `failed` with. What is none is passed over.",
        ))
}

fn header(name: &str, about: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
}

/// The parameters of `GET /status`.
pub(super) fn of_status(operation: OperationBuilder) -> OperationBuilder {
    let search = ObjectBuilder::new().schema_type(Type::String);
    let limit = whole_number().minimum(Some(0)).default(Some(DEVICES.into()));
    let more = format!(
        "The most devices in the answer, worst first; above {DEVICES_TOLD_MAX} it is lowered to that."
    );
    let of_whom =
        "Devices whose name has this text in it, or whose caller's name has, in letters of either case.";
    operation
        .parameter(query("search", of_whom, search))
        .parameter(query("limit", &more, limit))
}

/// The parameters of `GET /why`.
pub(super) fn of_why(operation: OperationBuilder) -> OperationBuilder {
    let name = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(ONE_NAME_PATTERN));
    let key = ObjectBuilder::new().schema_type(Type::String);
    let since = since("A date that the device goes by. 1970-01-01T00:00:00Z is a device that has nothing.");
    operation
        .parameter(query("entity", "The name of the entity.", name).required(Required::True))
        .parameter(
            query(
                "key",
                "The key of the row: a JSON object of its columns with their values, as changes have it; of a key \
                 of one column also the value as it stands.",
                key,
            )
            .required(Required::True),
        )
        .parameter(query(
            "since",
            "What the device has. Absent: what is known of the row itself, or what `device` sent last.",
            since,
        ))
        .parameter(query(
            "device",
            "For operators: a device that has named itself; the answer is about what its caller may see, and where it \
             stands.",
            ObjectBuilder::new().schema_type(Type::String),
        ))
        .parameter(query(
            "caller",
            "The caller of that device, where several have one of its name.",
            ObjectBuilder::new().schema_type(Type::String),
        ))
}

/// A date or a cursor.
fn since(about_date: &str) -> AnyOfBuilder {
    let date = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some(about_date));
    AnyOfBuilder::new()
        .item(date)
        .item(Ref::from_schema_name("Cursor"))
}

fn query(name: &str, about: &str, schema: impl Into<RefOr<Schema>>) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(schema))
}

fn whole_number() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::Integer))
}
