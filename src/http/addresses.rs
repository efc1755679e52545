//! Limits by client address: sessions held, new sessions per second, and answers to sessions that
//! name no user.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;

use crate::config::Limits;
use crate::hub::Permit;
use crate::rate::{Rate, Shared, Sweep};

/// Entries kept before those without sessions are removed.
const SWEEP_AT: usize = 65_536;

/// Counts sessions by address.
#[derive(Debug)]
pub struct Addresses {
    by_address: DashMap<IpAddr, Usage>,
    sessions_max: usize,
    /// New sessions; one second's worth may come at once.
    rate: Option<Rate>,
    /// Whether the answers that sessions ask for are counted.
    counts_answers: bool,
    sweep: Sweep,
    started: Instant,
}

#[derive(Debug, Default)]
struct Usage {
    sessions: usize,
    /// When the rate of new sessions is paid back, in ns since the start.
    used_ns: u64,
    /// Bytes of answers. This debt outlives the sessions that made it.
    asked: Arc<Shared>,
}

impl Usage {
    fn is_unused(&self, now_ns: u64) -> bool {
        // An answer may still be on its way when its session has ended.
        let answered = Arc::strong_count(&self.asked) == 1 && self.asked.is_unused();
        self.sessions == 0 && Rate::is_unused(self.used_ns, now_ns) && answered
    }
}

/// Why an address may not open another session now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many sessions are open.
    TooMany,
    /// Sessions are opened too fast.
    TooFast,
}

impl Addresses {
    /// With the limits of the configuration.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            by_address: DashMap::new(),
            sessions_max: limits.sessions_per_address,
            rate: (limits.new_sessions_per_address > 0).then(|| {
                let per_second = u64::from(limits.new_sessions_per_address);
                Rate::new(per_second, per_second)
            }),
            counts_answers: limits.reply_bytes_per_address > 0,
            sweep: Sweep::new(SWEEP_AT),
            started: Instant::now(),
        })
    }

    /// A permit for one more session of `address`. `known` says whether the session names its user.
    /// `None` if no limit applies, so that nothing needs to be counted.
    ///
    /// # Errors
    /// The limit that is exceeded.
    pub fn admit(self: &Arc<Self>, address: IpAddr, known: bool) -> Result<Option<Box<dyn Permit>>, Refused> {
        if !self.counts_sessions() && (known || !self.counts_answers) {
            return Ok(None);
        }
        let address = counted(address);
        let now_ns = self.now_ns();
        self.sweep(now_ns);
        let mut usage = self.by_address.entry(address).or_default();
        if self.sessions_max > 0 && usage.sessions >= self.sessions_max {
            return Err(Refused::TooMany);
        }
        if let Some(rate) = self.rate
            && !rate.spend(&mut usage.used_ns, now_ns, 1)
        {
            return Err(Refused::TooFast);
        }
        usage.sessions += 1;
        let asked = self.counts_answers.then(|| usage.asked.clone());
        Ok(Some(Box::new(Held { addresses: self.clone(), address, asked })))
    }

    /// Counts the answers of an address whose clients name no user; `None` if that is not limited.
    pub fn asked(&self, address: IpAddr) -> Option<Arc<Shared>> {
        if !self.counts_answers {
            return None;
        }
        self.sweep(self.now_ns());
        Some(self.by_address.entry(counted(address)).or_default().asked.clone())
    }

    /// Removes addresses without sessions and debts, if there are many entries and the last sweep
    /// was not a moment ago.
    fn sweep(&self, now_ns: u64) {
        if self.sweep.is_due(self.by_address.len()) {
            self.by_address.retain(|_, usage| !usage.is_unused(now_ns));
        }
    }

    /// Whether there are limits on sessions.
    fn counts_sessions(&self) -> bool {
        self.sessions_max > 0 || self.rate.is_some()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The address that is counted: for IPv6 the /64 network, because a host has all addresses of one
/// (RFC 4291 §2.5.4).
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        IpAddr::V4(_) => address,
    }
}

/// A rate per client address, for work that costs the server something.
#[derive(Debug)]
pub struct AddressRate {
    used_ns: DashMap<IpAddr, u64>,
    rate: Option<Rate>,
    sweep: Sweep,
    started: Instant,
}

impl AddressRate {
    /// So many units per second; `burst_s` seconds' worth may come at once. 0 is no limit.
    pub fn new(per_second: u32, burst_s: u64) -> Self {
        let per_second = u64::from(per_second);
        Self {
            used_ns: DashMap::new(),
            rate: (per_second > 0).then(|| Rate::new(per_second, per_second * burst_s)),
            sweep: Sweep::new(SWEEP_AT),
            started: Instant::now(),
        }
    }

    /// Takes units if at least one is left, even if there are fewer than asked for.
    ///
    /// # Errors
    /// How long the address has to wait until one unit is left.
    pub fn take(&self, address: IpAddr, units: usize) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now_ns = self.now_ns();
        let mut used = self.used_ns.entry(counted(address)).or_default();
        let wait_ns = rate.wait_ns(*used, now_ns);
        if wait_ns > 0 {
            return Err(Duration::from_nanos(wait_ns));
        }
        rate.charge(&mut used, now_ns, units as u64);
        drop(used);
        self.sweep(now_ns);
        Ok(())
    }

    /// Gives back units that were taken but not used.
    pub fn give_back(&self, address: IpAddr, units: usize) {
        let Some(rate) = self.rate else { return };
        if let Some(mut used) = self.used_ns.get_mut(&counted(address)) {
            rate.give_back(&mut used, units as u64);
        }
    }

    /// Counts units that an address was given.
    pub fn charge(&self, address: IpAddr, units: usize) {
        let Some(rate) = self.rate else { return };
        let now_ns = self.now_ns();
        let mut used = self.used_ns.entry(counted(address)).or_default();
        rate.charge(&mut used, now_ns, units as u64);
        drop(used);
        self.sweep(now_ns);
    }

    /// Removes addresses that owe nothing, if there are many entries and the last sweep was not a
    /// moment ago.
    fn sweep(&self, now_ns: u64) {
        if self.sweep.is_due(self.used_ns.len()) {
            self.used_ns.retain(|_, used_ns| !Rate::is_unused(*used_ns, now_ns));
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

struct Held {
    addresses: Arc<Addresses>,
    address: IpAddr,
    asked: Option<Arc<Shared>>,
}

impl Permit for Held {
    fn address(&self) -> Option<u64> {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        if !self.addresses.counts_sessions() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        self.address.hash(&mut hasher);
        Some(hasher.finish())
    }

    fn asked(&self) -> Option<Arc<Shared>> {
        self.asked.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(mut usage) = self.addresses.by_address.get_mut(&self.address) {
            usage.sessions = usage.sessions.saturating_sub(1);
        }
        let now_ns = self.addresses.now_ns();
        self.addresses.by_address.remove_if(&self.address, |_, usage| usage.is_unused(now_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_and_given_back() {
        let limits = Limits { sessions_per_address: 2, ..Limits::default() };
        let addresses = Addresses::new(&limits);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = addresses.admit(a, false).unwrap();
        let _second = addresses.admit(a, false).unwrap();
        assert_eq!(addresses.admit(a, false).err(), Some(Refused::TooMany));
        assert!(addresses.admit(b, false).is_ok());
        drop(first);
        assert!(addresses.admit(a, false).is_ok());
    }

    #[test]
    fn what_an_address_was_given_is_paid_back_before_it_gets_more() {
        let rate = AddressRate::new(10, 2);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        assert_eq!(rate.take(a, 1), Ok(()));
        rate.charge(a, 1_000);
        let wait = rate.take(a, 1).unwrap_err();
        assert!((90..=100).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(rate.take(b, 1_000), Ok(()), "another address is not asked to pay");
        rate.give_back(b, 999);
        assert_eq!(rate.take(b, 1), Ok(()), "what was not needed is there again");
        let off = AddressRate::new(0, 2);
        off.charge(a, 1_000);
        assert_eq!(off.take(a, 1), Ok(()));
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let addresses = Addresses::new(&Limits { sessions_per_address: 1, ..Limits::default() });
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let _first = addresses.admit(address("2001:db8:0:1::1"), false).unwrap();
        assert_eq!(addresses.admit(address("2001:db8:0:1:ffff::2"), false).err(), Some(Refused::TooMany));
        assert!(addresses.admit(address("2001:db8:0:2::1"), false).is_ok());
    }

    #[test]
    fn what_sessions_of_an_address_asked_for_outlives_them() {
        let limits = Limits { reply_bytes_per_address: 1_000, ..Limits::default() };
        let addresses = Addresses::new(&limits);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let rate = Rate::new(1_000, 1_000);
        let asked = |address| addresses.admit(address, false).unwrap().unwrap().asked().unwrap();
        asked(a).charge(rate, 1_000_000);
        assert!(asked(a).wait_ns(rate) > 0, "its session has ended, and a new one has come");
        assert_eq!(asked(b).wait_ns(rate), 0);
        assert!(addresses.admit(a, true).unwrap().is_none(), "a user has an allowance of its own");
        drop(addresses.admit(b, false).unwrap());
        assert_eq!(addresses.by_address.len(), 1, "one that owes nothing is not kept");
        let off = Addresses::new(&Limits { reply_bytes_per_address: 0, ..limits });
        assert!(off.admit(a, false).unwrap().is_none());
    }

    #[test]
    fn bursts_are_bounded() {
        let limits = Limits { new_sessions_per_address: 5, ..Limits::default() };
        let addresses = Addresses::new(&limits);
        let admitted = (0..50).filter(|_| addresses.admit([127, 0, 0, 1].into(), false).is_ok()).count();
        assert!((5..=7).contains(&admitted), "{admitted}");
    }
}
