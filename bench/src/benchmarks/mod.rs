//! The benchmarks, in the order of the report. Each module has one.

mod first_pull;
mod flat_cost;
mod memory;
mod nothing_new;
mod remote;
mod seed;
mod server_cpu;
mod small_change;
mod write_cost;

use crate::outcome::Benchmark;

/// All of them.
pub(crate) const ALL: [Benchmark; 9] = [
    first_pull::BENCHMARK,
    seed::BENCHMARK,
    small_change::BENCHMARK,
    nothing_new::BENCHMARK,
    memory::BENCHMARK,
    server_cpu::BENCHMARK,
    flat_cost::BENCHMARK,
    write_cost::BENCHMARK,
    remote::BENCHMARK,
];
