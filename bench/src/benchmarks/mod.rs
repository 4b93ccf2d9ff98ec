//! The benchmarks, in the order of the report. Each module has one, but for what some of them
//! share in `against_first_pull` and `going_back`.

mod against_first_pull;
mod coming_back;
mod commit_to_visible;
mod first_pull;
mod flat_cost;
mod going_back;
mod memory;
mod nothing_new;
mod polls;
mod promotion;
mod remote;
mod restore;
mod scope_change;
mod seed;
mod server_cpu;
mod small_change;
mod verify;
mod waiting_callers;
mod write_cost;

use anyhow::Result;

use crate::open_files;
use crate::outcome::Benchmark;
use crate::stage::Sizes;

/// All of them.
pub(crate) const ALL: [Benchmark; 17] = [
    first_pull::BENCHMARK,
    seed::BENCHMARK,
    small_change::BENCHMARK,
    nothing_new::BENCHMARK,
    commit_to_visible::BENCHMARK,
    waiting_callers::BENCHMARK,
    polls::BENCHMARK,
    coming_back::BENCHMARK,
    verify::BENCHMARK,
    promotion::BENCHMARK,
    restore::BENCHMARK,
    scope_change::BENCHMARK,
    memory::BENCHMARK,
    server_cpu::BENCHMARK,
    flat_cost::BENCHMARK,
    write_cost::BENCHMARK,
    remote::BENCHMARK,
];

/// Finds out now, and not after minutes, that one of them could not be run.
pub(crate) fn check(chosen: &[&Benchmark], sizes: Sizes) -> Result<()> {
    let sockets = chosen.iter().map(|benchmark| match benchmark.name {
        name if name == waiting_callers::BENCHMARK.name => waiting_callers::callers(sizes),
        name if name == coming_back::BENCHMARK.name => coming_back::devices(sizes),
        _ => 0,
    });
    open_files::check(sockets.max().unwrap_or(0))
}
