//! Several nodes together.

mod operate;
mod rebalancing;
mod scale_out;
mod two_nodes;
