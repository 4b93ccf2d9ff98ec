//! What a store costs that has seen what a promotion lost, beside a first pull of the same rows.

use anyhow::Result;
use highwater_testbed::{cut_off, promote};

use super::going_back::{change, measured};
use crate::data::Data;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::outcome::{Benchmark, Outcome};
use crate::stage::Stage;

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "promotion",
    measures: "the time and the bytes of the pull of a store that has seen what a promotion lost, where one row in a \
               thousand differs",
    against: "a first pull of the same rows",
    bar: "10 % of its time and of its bytes",
    run: |stage| Box::pin(run(stage)),
};

async fn run(stage: &Stage) -> Result<Outcome> {
    let rows = stage.sizes.rows;
    let primary = highwater::enabled(stage, Data::Items { rows }).await?;
    let server = Server::start(stage, &primary).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let (standby, promoted) = stage.standby(&primary).await?;
    cut_off(&primary.pool, &promoted.pool).await;
    change(&primary, 0).await?;
    let lost = highwater::pulled(stage, &server.url, &store).await?;
    drop(server);
    promote(&promoted.pool).await;
    let words = ["After a promotion that lost something", "after a promotion"];
    let note = format!(
        "A standby is cut off, {} rows are written, removed and added at the primary, and the store pulls these. Then \
         the standby is promoted, and as many others change there. Each run begins with a copy of that store, and \
         ends with one that `highwater verify --deep` finds equal, which is not part of the time. The server may read \
         the history of the timelines.",
        count(lost.rows + lost.deleted)
    );
    let outcome = measured(stage, &BENCHMARK, words, &promoted, &store, note).await;
    promoted.pool.close().await;
    drop(standby);
    outcome
}
