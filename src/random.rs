//! Random numbers, for what need not be hard to guess.

/// Any number.
pub fn bits() -> u64 {
    #[cfg(test)]
    if let Some(bits) = simulated::bits() {
        return bits;
    }
    rand::random()
}

/// From 0 up to 1.
pub fn fraction() -> f64 {
    // As many bits as it holds exactly.
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Numbers that tests may choose.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    thread_local! {
        static NUMBERS: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// From now on all numbers of this thread follow from `seed`; or are random again.
    #[allow(dead_code)]
    pub(crate) fn set(seed: Option<u64>) {
        NUMBERS.set(seed.map(StdRng::seed_from_u64));
    }

    /// Whether they follow from a seed.
    pub(crate) fn is_set() -> bool {
        NUMBERS.with_borrow(Option::is_some)
    }

    pub(super) fn bits() -> Option<u64> {
        NUMBERS.with_borrow_mut(|numbers| numbers.as_mut().map(|numbers| numbers.random()))
    }
}
