//! What a store costs that has seen what is not in a dump, where that was restored, beside a first pull of the same rows.

use anyhow::Result;

use super::going_back::{change, measured};
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::outcome::{Benchmark, Outcome};
use crate::stage::Stage;

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "restore",
    measures: "the time and the bytes of the pull of a store that has seen what is not in the dump that was restored, where \
               one row in a thousand differs",
    against: "a first pull of the same rows",
    bar: "10 % of its time and of its bytes",
    run: |stage| Box::pin(run(stage)),
};

async fn run(stage: &Stage) -> Result<Outcome> {
    let rows = stage.sizes.rows;
    let original = highwater::enabled(stage, Data::Items { rows }).await?;
    let server = Server::start(stage, &original).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    highwater::administer(stage, &original, &["mark"]).await?;
    let dump = stage.dump(&original)?;
    change(&original, 0).await?;
    let lost = highwater::pulled(stage, &server.url, &store).await?;
    drop(server);
    let restored = stage.restore(&dump).await?;
    highwater::administer(stage, &restored, &["rebase"]).await?;
    let words = ["After a restore from a dump", "after a restore"];
    let note = format!(
        "`highwater-server mark`, then `pg_dump`. {} rows are written, removed and added after that, and the store pulls \
         these. The dump is restored into another database, `highwater-server rebase` makes it one that is served, and \
         as many others change there. Each run begins with a copy of that store, and ends with one that `highwater verify \
         --deep` finds equal, which is not part of the time.",
        count(lost.rows + lost.deleted)
    );
    measured(stage, &BENCHMARK, words, &restored, &store, note).await
}
