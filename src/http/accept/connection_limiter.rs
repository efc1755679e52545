//! The connection limiter: how many HTTP connections are served, how many wait, and which are
//! evicted for others. An address holds more than its share only while no other address needs the
//! slots.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::http::addresses::counted;
use crate::limits::{
    HEALTH_CONNECTIONS_MAX, HTTP_CONNECTIONS_MAX, HTTP_OVERFLOW_MAX, HTTP_OVERFLOW_PER_ADDRESS, HTTP_WAIT,
    HTTP_WAITING_MAX, OPERATOR_CONNECTIONS_MAX,
};

/// HTTP connections also use descriptors, from the reserve: a listener serves a fixed number of
/// connections, and some more wait for a while.
#[derive(Clone)]
pub struct ConnectionLimiter(Arc<Shared>);

struct Shared {
    connections: Mutex<Connections>,
    /// A waiting place has become free.
    freed: Notify,
}

/// The slots and their connections.
#[derive(Default)]
struct Connections {
    served_max: usize,
    waiting_max: usize,
    /// Connections that one address may hold while others wait; 0 is no limit.
    share: usize,
    next: u64,
    /// Served connections by slot, with their address; a trusted proxy's have none.
    slots: HashMap<u64, Option<IpAddr>>,
    waiters: BTreeMap<u64, Waiter>,
    /// Served and waiting connections per address.
    held: HashMap<IpAddr, usize>,
    /// Connections whose client keeps the server waiting: these can be evicted.
    evictable: BTreeMap<u64, Evictable>,
    /// Slots whose connections were told to end and have not ended yet.
    evicting: HashSet<u64>,
    /// Connections without a slot that are read all the same.
    overflow: usize,
    overflow_of: HashMap<IpAddr, usize>,
    /// Requests in progress that came through a trusted proxy.
    requests: HashMap<IpAddr, usize>,
}

struct Waiter {
    address: Option<IpAddr>,
    grant: oneshot::Sender<()>,
}

struct Evictable {
    slot: u64,
    /// The connection has used up its patience.
    overdue: bool,
    evict: oneshot::Sender<()>,
}

fn add(counts: &mut HashMap<IpAddr, usize>, address: Option<IpAddr>) {
    if let Some(address) = address {
        *counts.entry(address).or_default() += 1;
    }
}

fn subtract(counts: &mut HashMap<IpAddr, usize>, address: Option<IpAddr>) {
    if let Some(address) = address
        && let Some(count) = counts.get_mut(&address)
    {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&address);
        }
    }
}

impl Connections {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether an address holds more than its share.
    fn is_over(&self, address: Option<IpAddr>) -> bool {
        self.share > 0 && address.and_then(|address| self.held.get(&address)).is_some_and(|held| *held > self.share)
    }

    /// The next connection to be served: the first whose address is within its share, or else the
    /// first.
    fn next_waiter(&self) -> Option<u64> {
        let within = self.waiters.iter().find(|(_, waiter)| !self.is_over(waiter.address));
        within.or_else(|| self.waiters.iter().next()).map(|(id, _)| *id)
    }

    /// A slot has become free: the next waiter gets it.
    fn release(&mut self, slot: u64) {
        self.evicting.remove(&slot);
        let address = self.slots.remove(&slot).flatten();
        subtract(&mut self.held, address);
        while self.slots.len() < self.served_max
            && let Some(id) = self.next_waiter()
            && let Some(waiter) = self.waiters.remove(&id)
        {
            self.slots.insert(id, waiter.address);
            // A waiter that does not receive this has left, and its drop frees the slot.
            let _ = waiter.grant.send(());
        }
        self.evict_for_waiters();
    }

    /// Evicts connections, one per waiter for which none was evicted yet.
    fn evict_for_waiters(&mut self) {
        while self.waiters.len() > self.evicting.len() {
            let within = self.waiters.values().filter(|waiter| !self.is_over(waiter.address)).count();
            let for_one_within = within > self.evicting.len();
            let Some(id) = self.next_evicted(for_one_within) else { return };
            let Some(evictable) = self.evictable.remove(&id) else { return };
            self.evicting.insert(evictable.slot);
            let _ = evictable.evict.send(());
        }
    }

    /// The connection to evict: the first of an address above its share, at once if the waiter is
    /// within its own share; else one that has used up its patience.
    fn next_evicted(&self, for_one_within: bool) -> Option<u64> {
        let is_over = |evictable: &Evictable| self.is_over(self.slots.get(&evictable.slot).copied().flatten());
        let over = self.evictable.iter().find(|(_, w)| (for_one_within || w.overdue) && is_over(w));
        let found = over.or_else(|| self.evictable.iter().find(|(_, w)| for_one_within && w.overdue));
        found.map(|(id, _)| *id)
    }
}

/// The result of an admission.
pub(in crate::http) enum Admission {
    /// The connection is served.
    Served(Slot),
    /// The connection waits for a slot.
    Waiting(Waiting),
}

/// A connection's slot, held while this lives.
pub(in crate::http) struct Slot(SlotHandle);

impl Slot {
    /// A handle that may outlive the slot.
    pub(in crate::http) fn slot_handle(&self) -> &SlotHandle {
        &self.0
    }

    /// Sets the client's address, once it is known.
    pub(in crate::http) fn is_of(&self, address: IpAddr) {
        let mut connections = self.0.limiter.lock();
        let address = counted(address);
        if let Some(known @ None) = connections.slots.get_mut(&self.0.slot) {
            *known = Some(address);
            add(&mut connections.held, Some(address));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.limiter.lock().release(self.0.slot);
    }
}

/// A waiting connection's place, held while this lives.
pub(in crate::http) struct Waiting {
    limiter: ConnectionLimiter,
    id: u64,
    granted: oneshot::Receiver<()>,
    taken: bool,
}

impl Waiting {
    /// The slot, if it was granted.
    fn take(&mut self) -> Option<Slot> {
        let is_granted = self.limiter.lock().slots.contains_key(&self.id);
        self.taken = is_granted;
        is_granted.then(|| Slot(SlotHandle { limiter: self.limiter.clone(), slot: self.id }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.taken {
            let mut connections = self.limiter.lock();
            match connections.waiters.remove(&self.id) {
                Some(waiter) => subtract(&mut connections.held, waiter.address),
                None => connections.release(self.id),
            }
        }
        self.limiter.0.freed.notify_one();
    }
}

/// A count that its drop gives back.
pub(in crate::http) struct CountGuard {
    limiter: ConnectionLimiter,
    address: Option<IpAddr>,
    give_back: fn(&mut Connections, Option<IpAddr>),
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        (self.give_back)(&mut self.limiter.lock(), self.address);
    }
}

impl ConnectionLimiter {
    /// For the public port or the TLS port; `share` is the share of one address.
    pub(in crate::http) fn public(share: usize) -> Self {
        Self::of(HTTP_CONNECTIONS_MAX, HTTP_WAITING_MAX, share)
    }

    /// For the operators' own listener.
    pub(in crate::http) fn operators() -> Self {
        Self::of(OPERATOR_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX / 2)
    }

    /// For `server.health_listen`.
    pub(in crate::http) fn health() -> Self {
        Self::of(HEALTH_CONNECTIONS_MAX, HEALTH_CONNECTIONS_MAX, HEALTH_CONNECTIONS_MAX / 2)
    }

    fn of(served_max: usize, waiting_max: usize, share: usize) -> Self {
        let connections = Connections { served_max, waiting_max, share, ..Connections::default() };
        Self(Arc::new(Shared { connections: Mutex::new(connections), freed: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection of this address, if there is a slot or a waiting place.
    pub(in crate::http) fn admit(&self, address: Option<IpAddr>) -> Option<Admission> {
        let address = address.map(counted);
        let mut connections = self.lock();
        let id = connections.id();
        add(&mut connections.held, address);
        if connections.slots.len() < connections.served_max {
            connections.slots.insert(id, address);
            return Some(Admission::Served(Slot(SlotHandle { limiter: self.clone(), slot: id })));
        }
        let waiting_max =
            if connections.is_over(address) { connections.waiting_max / 2 } else { connections.waiting_max };
        if connections.waiters.len() >= waiting_max {
            subtract(&mut connections.held, address);
            return None;
        }
        let (grant, granted) = oneshot::channel();
        connections.waiters.insert(id, Waiter { address, grant });
        connections.evict_for_waiters();
        drop(connections);
        Some(Admission::Waiting(Waiting { limiter: self.clone(), id, granted, taken: false }))
    }

    /// Whether an address holds its share or more.
    pub(in crate::http) fn is_at_share(&self, address: Option<IpAddr>) -> bool {
        let connections = self.lock();
        let held = address.and_then(|address| connections.held.get(&counted(address)));
        connections.share > 0 && held.is_some_and(|held| *held >= connections.share)
    }

    /// Waits for a waiting place, at most [`HTTP_WAIT`] and until `stop`. Returns at once for an
    /// address at its share, which would delay the connections after it.
    pub(in crate::http) async fn admit_in_time(
        &self,
        address: Option<IpAddr>,
        stop: &CancellationToken,
    ) -> Option<Admission> {
        let admission = async {
            loop {
                let freed = self.0.freed.notified();
                match self.admit(address) {
                    Some(admission) => return Some(admission),
                    None if self.is_at_share(address) => return None,
                    None => freed.await,
                }
            }
        };
        stop.run_until_cancelled(timeout(HTTP_WAIT, admission)).await?.ok()?
    }

    /// Waits for a slot, at most [`HTTP_WAIT`].
    pub(in crate::http) async fn wait_for_slot(&self, admission: Admission) -> Option<Slot> {
        match admission {
            Admission::Served(slot) => Some(slot),
            Admission::Waiting(mut waiting) => {
                // Grant and time-out can coincide: the slots decide.
                let _ = timeout(HTTP_WAIT, &mut waiting.granted).await;
                waiting.take()
            }
        }
    }

    /// Counts a connection without a slot that is read all the same, for a moment.
    pub(in crate::http) fn overflow(&self, address: Option<IpAddr>) -> Option<CountGuard> {
        let address = address.map(counted);
        let mut connections = self.lock();
        let of_it = address.and_then(|address| connections.overflow_of.get(&address)).copied().unwrap_or_default();
        if connections.overflow >= HTTP_OVERFLOW_MAX || of_it >= HTTP_OVERFLOW_PER_ADDRESS {
            return None;
        }
        connections.overflow += 1;
        add(&mut connections.overflow_of, address);
        let give_back = |connections: &mut Connections, address| {
            connections.overflow = connections.overflow.saturating_sub(1);
            subtract(&mut connections.overflow_of, address);
        };
        Some(CountGuard { limiter: self.clone(), address, give_back })
    }

    /// Counts a request of a client behind a proxy; `None` if the client is at its limit of
    /// concurrent requests.
    pub(in crate::http) fn request(&self, client: IpAddr) -> Option<CountGuard> {
        let client = Some(counted(client));
        let mut connections = self.lock();
        let under_way = client.and_then(|client| connections.requests.get(&client)).copied().unwrap_or_default();
        if connections.share > 0 && under_way >= connections.share {
            return None;
        }
        add(&mut connections.requests, client);
        Some(CountGuard {
            limiter: self.clone(),
            address: client,
            give_back: |connections, client| subtract(&mut connections.requests, client),
        })
    }
}

/// A handle of a served connection.
#[derive(Clone)]
pub(in crate::http) struct SlotHandle {
    limiter: ConnectionLimiter,
    slot: u64,
}

impl SlotHandle {
    /// The limiter that it belongs to.
    pub(in crate::http) fn limiter(&self) -> &ConnectionLimiter {
        &self.limiter
    }

    /// Ready, once, if the connection is evicted because another waits for its slot. Not before
    /// `patience` has passed, unless its address holds more than its share. The longest waiting of
    /// several is evicted first.
    pub(in crate::http) fn evicted_after(&self, patience: Duration) -> Eviction {
        Eviction { slot_handle: self.clone(), patience, entry: None, evicted: false }
    }

    /// Whether another connection waits for this slot and no other connection was evicted for it.
    /// If so, the caller must end its connection.
    pub(in crate::http) fn claim_eviction(&self) -> bool {
        let mut connections = self.limiter.lock();
        let over = connections.is_over(connections.slots.get(&self.slot).copied().flatten());
        let waiters =
            connections.waiters.values().filter(|waiter| over || !connections.is_over(waiter.address)).count();
        waiters > connections.evicting.len() && connections.evicting.insert(self.slot)
    }
}

/// An entry among the evictable connections.
struct Entry {
    id: u64,
    evict: oneshot::Receiver<()>,
    /// Until it is overdue.
    patience: Option<Pin<Box<Sleep>>>,
}

/// See [`SlotHandle::evicted_after`].
pub(in crate::http) struct Eviction {
    slot_handle: SlotHandle,
    patience: Duration,
    entry: Option<Entry>,
    evicted: bool,
}

impl Future for Eviction {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let entry = this.entry.get_or_insert_with(|| {
            let mut connections = this.slot_handle.limiter.lock();
            let (id, (evict, evicted)) = (connections.id(), oneshot::channel());
            let overdue = this.patience.is_zero();
            connections.evictable.insert(id, Evictable { slot: this.slot_handle.slot, overdue, evict });
            connections.evict_for_waiters();
            // Tokio rounds a sleep of zero up to a millisecond.
            Entry { id, evict: evicted, patience: (!overdue).then(|| Box::pin(sleep(this.patience))) }
        });
        if let Some(sleep) = &mut entry.patience
            && sleep.as_mut().poll(context).is_ready()
        {
            entry.patience = None;
            let mut connections = this.slot_handle.limiter.lock();
            if let Some(evictable) = connections.evictable.get_mut(&entry.id) {
                evictable.overdue = true;
                connections.evict_for_waiters();
            }
        }
        match Pin::new(&mut entry.evict).poll(context) {
            Poll::Ready(Ok(())) => {
                this.evicted = true;
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

impl Drop for Eviction {
    fn drop(&mut self) {
        let Some(entry) = &self.entry else { return };
        if self.evicted {
            return;
        }
        let mut connections = self.slot_handle.limiter.lock();
        if connections.evictable.remove(&entry.id).is_none() {
            // It was evicted but is busy again: another connection is evicted instead.
            connections.evicting.remove(&self.slot_handle.slot);
            connections.evict_for_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::http::accept::keep_alive::{Awaits, KeepAlivePolicy};
    use crate::limits::HTTP_PATIENCE;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// A new connection; its slot, if it gets one.
    fn connects(limiter: &ConnectionLimiter, of: Option<IpAddr>) -> JoinHandle<Option<Slot>> {
        let (limiter, admission) = (limiter.clone(), limiter.admit(of).unwrap());
        tokio::spawn(async move { limiter.wait_for_slot(admission).await })
    }

    async fn slots(limiter: &ConnectionLimiter, of: Option<IpAddr>, count: usize) -> Vec<Slot> {
        let mut slots = Vec::new();
        for _ in 0..count {
            slots.push(connects(limiter, of).await.unwrap().unwrap());
        }
        slots
    }

    /// A connection that ends when it is evicted.
    fn leaves_when_evicted(slot: Slot, patience: Duration) -> JoinHandle<()> {
        tokio::spawn(async move { slot.slot_handle().evicted_after(patience).await })
    }

    #[tokio::test(start_paused = true)]
    async fn one_gives_way_for_each_who_waits() {
        let limiter = ConnectionLimiter::of(2, 8, 0);
        let mut served = slots(&limiter, address(1), 2).await;
        let (first, second) = (
            leaves_when_evicted(served.remove(0), Duration::ZERO),
            leaves_when_evicted(served.remove(0), Duration::ZERO),
        );
        let third = connects(&limiter, address(1)).await.unwrap().unwrap();
        first.await.unwrap();
        tokio::time::sleep(HTTP_WAIT / 4).await;
        assert!(!second.is_finished());
        // Waiters that got no slot leave nothing behind.
        second.abort();
        let fourth = connects(&limiter, address(1)).await.unwrap().unwrap();
        let (one, other) = (connects(&limiter, address(1)), connects(&limiter, address(2)));
        assert!(one.await.unwrap().is_none() && other.await.unwrap().is_none());
        drop((third, fourth));
        let connections = limiter.lock();
        assert!(
            connections.slots.is_empty()
                && connections.waiters.is_empty()
                && connections.held.is_empty()
                && connections.evicting.is_empty()
        );
    }

    /// A busy connection is not evicted; if it was chosen and then became busy, another is evicted
    /// instead.
    #[tokio::test(start_paused = true)]
    async fn a_busy_one_stands_in_no_queue() {
        let limiter = ConnectionLimiter::of(2, 8, 0);
        let mut served = slots(&limiter, address(1), 2).await;
        let (slot, other) = (served.remove(0), served.remove(0));
        let mut policy = KeepAlivePolicy::new(slot.slot_handle(), HTTP_PATIENCE);
        let mut look = async |requests, awaits| {
            let mut polled = Poll::Pending;
            let look = std::future::poll_fn(|context| {
                polled = policy.poll(context, requests, awaits);
                polled
            });
            timeout(HTTP_PATIENCE * 2 / 3, look).await.is_ok()
        };
        assert!(!look(1, Awaits::NextRequest).await);
        assert!(!look(2, Awaits::Server).await);
        let one = connects(&limiter, address(1));
        leaves_when_evicted(other, Duration::ZERO).await.unwrap();
        let one = one.await.unwrap();
        assert!(one.is_some() && !look(2, Awaits::NextRequest).await);
        // A connection that takes its answers too slowly gains nothing by more requests.
        let waits = connects(&limiter, address(1));
        let mut asked = 3;
        while !look(asked, Awaits::Taking).await {
            asked += 1;
            assert!(asked < 6);
        }
        waits.abort();
    }

    /// An address that holds all slots is evicted first and at once, and its waiters wait for its
    /// own slots alone.
    #[tokio::test(start_paused = true)]
    async fn an_address_beyond_its_share_gives_way_at_once() {
        let limiter = ConnectionLimiter::of(8, 4, 2);
        let quiet = leaves_when_evicted(slots(&limiter, address(2), 1).await.remove(0), Duration::ZERO);
        let greedy: Vec<_> = slots(&limiter, address(1), 7)
            .await
            .into_iter()
            .map(|slot| leaves_when_evicted(slot, Duration::from_secs(3_600)))
            .collect();
        tokio::task::yield_now().await;
        // More of the same address: they get half of the waiting places, and nothing is evicted for
        // them.
        let more: Vec<_> = (0..2).map(|_| connects(&limiter, address(1))).collect();
        assert!(limiter.admit(address(1)).is_none());
        let begun = tokio::time::Instant::now();
        let others: Vec<_> = (3..5).map(|n| connects(&limiter, address(n))).collect();
        let mut slots = Vec::new();
        for other in others {
            slots.push(other.await.unwrap().unwrap());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "those who are within their share do not wait");
        assert!(!quiet.is_finished(), "nor do they evict");
        assert_eq!(greedy.iter().filter(|one| one.is_finished()).count(), 2);
        for one in more {
            assert!(one.await.unwrap().is_none());
        }
    }

    #[test]
    fn what_is_counted_is_given_back() {
        let limiter = ConnectionLimiter::of(1, 1, 2);
        let client = address(1).unwrap();
        let one = limiter.request(client);
        let other = limiter.request(client);
        assert!(one.is_some() && other.is_some() && limiter.request(client).is_none());
        drop(other);
        assert!(limiter.request(client).is_some());
        let overflow: Vec<_> = (0..HTTP_OVERFLOW_PER_ADDRESS).map(|_| limiter.overflow(address(1)).unwrap()).collect();
        assert!(limiter.overflow(address(1)).is_none() && limiter.overflow(address(2)).is_some());
        drop(overflow);
        assert!(limiter.overflow(address(1)).is_some());
    }
}
