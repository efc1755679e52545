//! What subscribers get, in which order, and what a slow subscriber gets.

mod aged_at_start;
mod batches;
mod budgets;
mod conflation;
mod deliveries;
mod fair_shares;
mod pacing;
mod recovery;
mod requests_in_progress;
mod sessions;
mod two_streams;
mod whole_states;
