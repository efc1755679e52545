//! Random numbers; in a simulation, from its seed.

/// 64 random bits.
pub(crate) fn bits() -> u64 {
    #[cfg(test)]
    if let Some(bits) = simulated::bits() {
        return bits;
    }
    rand::random()
}

/// A random number from 0 to below 1.
pub(crate) fn share() -> f64 {
    // The 53 bits that an `f64` holds.
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Numbers from a seed, on the thread of a simulation.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    thread_local! {
        static NUMBERS: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Starts the numbers of a seed; `None` ends them.
    pub(crate) fn set(seed: Option<u64>) {
        NUMBERS.set(seed.map(StdRng::seed_from_u64));
    }

    pub(crate) fn bits() -> Option<u64> {
        NUMBERS.with_borrow_mut(|numbers| Some(numbers.as_mut()?.random()))
    }
}
