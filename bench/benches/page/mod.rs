//! A page as a server sends it, of one entity that begins anew.

use std::fmt::Write as _;

/// Rows of the page.
pub(crate) const ROWS: usize = 10_000;

/// The whole body.
pub(crate) fn body() -> String {
    let columns = r#"[{"name":"id","type":"bigint","role":"key","place":1},{"name":"sku","type":"text"},{"name":"price","type":"numeric"},{"name":"active","type":"boolean"},{"name":"note","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}]"#;
    let header = |kind: &str| {
        format!(r#"{{"version":1,"entity":"item","kind":"{kind}","columns":{columns},"fingerprint":"f"}}"#)
    };
    let mut body = format!("{}\n\\.\n{}\n", header("reset"), header("upsert"));
    for row in 0..ROWS {
        let note = if row % 3 == 0 { r"a\ttab and a \\" } else { r"\N" };
        // A string takes whatever is written to it.
        let _ = writeln!(
            body,
            "{row}\tSKU-{row:09}\t{}.50\t{}\t{note}\t2026-11-22 10:00:00.{row:06}+00",
            row % 1000,
            if row % 10 == 0 { 'f' } else { 't' }
        );
    }
    body.push_str("\\.\n");
    let _ = writeln!(
        body,
        r#"{{"next":"c1","more":false,"lastSyncDate":"2026-11-22T10:00:00Z","rows":{ROWS},"entities":["item"]}}"#
    );
    body
}
