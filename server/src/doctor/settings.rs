//! Settings of Postgres that decide whether what was promised outlives a crash.

use super::Examination;
use super::Severity::{Note, Serious, Warning};
use crate::unprepared;

pub(super) async fn check(e: &mut Examination<'_>) -> Result<(), sqlx::Error> {
    let off: Vec<String> = unprepared::query_scalar(
        "select name from pg_settings where name in ('fsync', 'full_page_writes', 'synchronous_commit') and reset_val = 'off' order by name",
    )
    .fetch_all(&mut *e.connection)
    .await?;
    for name in off {
        let remedy = format!("alter system set {name} = on; select pg_reload_conf();");
        let (severity, why) = match name.as_str() {
            "fsync" => (
                Serious,
                "After a crash of the machine Postgres may have lost what clients have, and give its ids to others. Nothing tells.",
            ),
            "full_page_writes" => (
                Warning,
                "A crash of the machine may leave torn pages, unless the file system prevents them.",
            ),
            _ => (
                Note,
                "A crash loses commits that the application believes in. Clients never get what is not on disk.",
            ),
        };
        e.found(severity, "setting")
            .of(&name)
            .says(format!("{name} is off"), why, remedy);
    }
    Ok(())
}
