//! How many HTTP connections are served and wait, and which of them give way to others. An address holds more than its
//! share only while no other address needs the places.

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

use super::addresses::counted;
use crate::limits::{
    HEALTH_CONNECTIONS_MAX, HTTP_CONNECTIONS_MAX, HTTP_OVERFLOW_MAX, HTTP_OVERFLOW_PER_ADDRESS, HTTP_WAIT,
    HTTP_WAITING_MAX, OPERATOR_CONNECTIONS_MAX,
};

/// HTTP holds descriptors too, out of the reserve: so many connections of a listener are served, and so many more wait for a
/// while.
#[derive(Clone)]
pub struct Lobby(Arc<Shared>);

struct Shared {
    room: Mutex<Room>,
    /// A place to wait in has become free.
    freed: Notify,
}

/// The places, and who has them.
#[derive(Default)]
struct Room {
    served_max: usize,
    waiting_max: usize,
    /// Connections that one address may hold while others wait; 0 is no limit.
    share: usize,
    next: u64,
    /// Connections that are served, by their seat, with their address; a trusted proxy's have none.
    seats: HashMap<u64, Option<IpAddr>>,
    waiters: BTreeMap<u64, Waiter>,
    /// Connections of an address that are served or wait.
    held: HashMap<IpAddr, usize>,
    /// Connections whose client keeps the server waiting: these can be asked to leave.
    willing: BTreeMap<u64, Willing>,
    /// Seats whose connections were asked to leave, and have not yet.
    leaving: HashSet<u64>,
    /// Connections without a place that are read all the same.
    overflow: usize,
    overflow_of: HashMap<IpAddr, usize>,
    /// Requests under way that came by way of a trusted proxy.
    requests: HashMap<IpAddr, usize>,
}

struct Waiter {
    address: Option<IpAddr>,
    grant: oneshot::Sender<()>,
}

struct Willing {
    seat: u64,
    /// It was waited for long enough.
    ripe: bool,
    leave: oneshot::Sender<()>,
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

impl Room {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether an address holds more than its share.
    fn is_over(&self, address: Option<IpAddr>) -> bool {
        self.share > 0 && address.and_then(|address| self.held.get(&address)).is_some_and(|held| *held > self.share)
    }

    /// The next to be served: the first whose address is within its share, or else the first.
    fn next_waiter(&self) -> Option<u64> {
        let within = self.waiters.iter().find(|(_, waiter)| !self.is_over(waiter.address));
        within.or_else(|| self.waiters.iter().next()).map(|(id, _)| *id)
    }

    /// A place has become free: the next waiter gets it.
    fn release(&mut self, seat: u64) {
        self.leaving.remove(&seat);
        let address = self.seats.remove(&seat).flatten();
        subtract(&mut self.held, address);
        while self.seats.len() < self.served_max
            && let Some(id) = self.next_waiter()
            && let Some(waiter) = self.waiters.remove(&id)
        {
            self.seats.insert(id, waiter.address);
            // One that does not hear it has left, and gives the seat back.
            let _ = waiter.grant.send(());
        }
        self.ask();
    }

    /// Asks connections to leave, one for each waiter for whom none was asked yet.
    fn ask(&mut self) {
        while self.waiters.len() > self.leaving.len() {
            let within = self.waiters.values().filter(|waiter| !self.is_over(waiter.address)).count();
            let for_one_within = within > self.leaving.len();
            let Some(id) = self.one_to_leave(for_one_within) else { return };
            let Some(willing) = self.willing.remove(&id) else { return };
            self.leaving.insert(willing.seat);
            let _ = willing.leave.send(());
        }
    }

    /// Who should leave: of addresses that hold more than their share the first, at once for a waiter that is within its own;
    /// else one that was waited for long enough.
    fn one_to_leave(&self, for_one_within: bool) -> Option<u64> {
        let is_over = |willing: &Willing| self.is_over(self.seats.get(&willing.seat).copied().flatten());
        let over = self.willing.iter().find(|(_, w)| (for_one_within || w.ripe) && is_over(w));
        let found = over.or_else(|| self.willing.iter().find(|(_, w)| for_one_within && w.ripe));
        found.map(|(id, _)| *id)
    }
}

/// Where a connection is.
pub(super) enum Place {
    /// It is served.
    Served(Seat),
    /// It waits for that.
    Waiting(Waiting),
}

/// A connection's place to be served, for as long as this lives.
pub(super) struct Seat(Guest);

impl Seat {
    /// The connection, for what may outlive it.
    pub(super) fn guest(&self) -> &Guest {
        &self.0
    }

    /// It has turned out whose connection it is.
    pub(super) fn is_of(&self, address: IpAddr) {
        let mut room = self.0.lobby.room();
        let address = counted(address);
        if let Some(known @ None) = room.seats.get_mut(&self.0.seat) {
            *known = Some(address);
            add(&mut room.held, Some(address));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lobby.room().release(self.0.seat);
    }
}

/// A connection's place to wait in, for as long as this lives.
pub(super) struct Waiting {
    lobby: Lobby,
    id: u64,
    granted: oneshot::Receiver<()>,
    taken: bool,
}

impl Waiting {
    /// The seat, if it was granted.
    fn take(&mut self) -> Option<Seat> {
        let is_granted = self.lobby.room().seats.contains_key(&self.id);
        self.taken = is_granted;
        is_granted.then(|| Seat(Guest { lobby: self.lobby.clone(), seat: self.id }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.taken {
            let mut room = self.lobby.room();
            match room.waiters.remove(&self.id) {
                Some(waiter) => subtract(&mut room.held, waiter.address),
                None => room.release(self.id),
            }
        }
        self.lobby.0.freed.notify_one();
    }
}

/// A count that is given back.
pub(super) struct Counted {
    lobby: Lobby,
    address: Option<IpAddr>,
    give_back: fn(&mut Room, Option<IpAddr>),
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.give_back)(&mut self.lobby.room(), self.address);
    }
}

impl Lobby {
    /// For the public port, or the one with TLS; an address may hold such a share.
    pub(super) fn public(share: usize) -> Self {
        Self::of(HTTP_CONNECTIONS_MAX, HTTP_WAITING_MAX, share)
    }

    /// For the operators' own listener.
    pub(super) fn operators() -> Self {
        Self::of(OPERATOR_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX / 2)
    }

    /// For `server.health_listen`.
    pub(super) fn health() -> Self {
        Self::of(HEALTH_CONNECTIONS_MAX, HEALTH_CONNECTIONS_MAX, HEALTH_CONNECTIONS_MAX / 2)
    }

    fn of(served_max: usize, waiting_max: usize, share: usize) -> Self {
        let room = Room { served_max, waiting_max, share, ..Room::default() };
        Self(Arc::new(Shared { room: Mutex::new(room), freed: Notify::new() }))
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection of this address, if there is one.
    pub(super) fn enter(&self, address: Option<IpAddr>) -> Option<Place> {
        let address = address.map(counted);
        let mut room = self.room();
        let id = room.id();
        add(&mut room.held, address);
        if room.seats.len() < room.served_max {
            room.seats.insert(id, address);
            return Some(Place::Served(Seat(Guest { lobby: self.clone(), seat: id })));
        }
        let waiting_max = if room.is_over(address) { room.waiting_max / 2 } else { room.waiting_max };
        if room.waiters.len() >= waiting_max {
            subtract(&mut room.held, address);
            return None;
        }
        let (grant, granted) = oneshot::channel();
        room.waiters.insert(id, Waiter { address, grant });
        room.ask();
        drop(room);
        Some(Place::Waiting(Waiting { lobby: self.clone(), id, granted, taken: false }))
    }

    /// Whether an address holds its share or more.
    pub(super) fn has_its_share(&self, address: Option<IpAddr>) -> bool {
        let room = self.room();
        let held = address.and_then(|address| room.held.get(&counted(address)));
        room.share > 0 && held.is_some_and(|held| *held >= room.share)
    }

    /// Waits for a place to wait in, at most [`HTTP_WAIT`] and until `stop`. An address that holds its share is not waited
    /// for: those behind it would wait too.
    pub(super) async fn enter_in_time(&self, address: Option<IpAddr>, stop: &CancellationToken) -> Option<Place> {
        let place = async {
            loop {
                let freed = self.0.freed.notified();
                match self.enter(address) {
                    Some(place) => return Some(place),
                    None if self.has_its_share(address) => return None,
                    None => freed.await,
                }
            }
        };
        stop.run_until_cancelled(timeout(HTTP_WAIT, place)).await?.ok()?
    }

    /// Waits until there is room to be served, at most [`HTTP_WAIT`].
    pub(super) async fn be_served(&self, place: Place) -> Option<Seat> {
        match place {
            Place::Served(seat) => Some(seat),
            Place::Waiting(mut waiting) => {
                // Granted or not, and also if both happen at once: what the room says counts.
                let _ = timeout(HTTP_WAIT, &mut waiting.granted).await;
                waiting.take()
            }
        }
    }

    /// Counts a connection that found no place and is read all the same, for a moment.
    pub(super) fn overflow(&self, address: Option<IpAddr>) -> Option<Counted> {
        let address = address.map(counted);
        let mut room = self.room();
        let of_it = address.and_then(|address| room.overflow_of.get(&address)).copied().unwrap_or_default();
        if room.overflow >= HTTP_OVERFLOW_MAX || of_it >= HTTP_OVERFLOW_PER_ADDRESS {
            return None;
        }
        room.overflow += 1;
        add(&mut room.overflow_of, address);
        let give_back = |room: &mut Room, address| {
            room.overflow = room.overflow.saturating_sub(1);
            subtract(&mut room.overflow_of, address);
        };
        Some(Counted { lobby: self.clone(), address, give_back })
    }

    /// Counts a request of a client whose connections are a proxy's; `None` if as many are under way as it may have.
    pub(super) fn request(&self, client: IpAddr) -> Option<Counted> {
        let client = Some(counted(client));
        let mut room = self.room();
        let under_way = client.and_then(|client| room.requests.get(&client)).copied().unwrap_or_default();
        if room.share > 0 && under_way >= room.share {
            return None;
        }
        add(&mut room.requests, client);
        Some(Counted {
            lobby: self.clone(),
            address: client,
            give_back: |room, client| subtract(&mut room.requests, client),
        })
    }
}

/// A connection that is served.
#[derive(Clone)]
pub(super) struct Guest {
    lobby: Lobby,
    seat: u64,
}

impl Guest {
    /// Where it is.
    pub(super) fn lobby(&self) -> &Lobby {
        &self.lobby
    }

    /// Ready, once, if the connection has to leave because another waits for its place: not before it was waited for as long
    /// as `patience`, unless its address holds more than its share; of several that could, the first is chosen.
    pub(super) fn to_give_way_after(&self, patience: Duration) -> GivesWay {
        GivesWay { guest: self.clone(), patience, entry: None, left: false }
    }

    /// Whether another connection waits for this one's place, and no other was asked to leave. If so, the caller must
    /// end its connection.
    pub(super) fn has_to_give_way(&self) -> bool {
        let mut room = self.lobby.room();
        let over = room.is_over(room.seats.get(&self.seat).copied().flatten());
        let waiters = room.waiters.values().filter(|waiter| over || !room.is_over(waiter.address)).count();
        waiters > room.leaving.len() && room.leaving.insert(self.seat)
    }
}

/// An entry among the willing.
struct Entry {
    id: u64,
    leave: oneshot::Receiver<()>,
    /// Until it is ripe.
    patience: Option<Pin<Box<Sleep>>>,
}

/// See [`Guest::to_give_way_after`].
pub(super) struct GivesWay {
    guest: Guest,
    patience: Duration,
    entry: Option<Entry>,
    left: bool,
}

impl Future for GivesWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let entry = this.entry.get_or_insert_with(|| {
            let mut room = this.guest.lobby.room();
            let (id, (leave, left)) = (room.id(), oneshot::channel());
            let ripe = this.patience.is_zero();
            room.willing.insert(id, Willing { seat: this.guest.seat, ripe, leave });
            room.ask();
            // A sleep of nothing is one of a millisecond.
            Entry { id, leave: left, patience: (!ripe).then(|| Box::pin(sleep(this.patience))) }
        });
        if let Some(sleep) = &mut entry.patience
            && sleep.as_mut().poll(context).is_ready()
        {
            entry.patience = None;
            let mut room = this.guest.lobby.room();
            if let Some(willing) = room.willing.get_mut(&entry.id) {
                willing.ripe = true;
                room.ask();
            }
        }
        match Pin::new(&mut entry.leave).poll(context) {
            Poll::Ready(Ok(())) => {
                this.left = true;
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

impl Drop for GivesWay {
    fn drop(&mut self) {
        let Some(entry) = &self.entry else { return };
        if self.left {
            return;
        }
        let mut room = self.guest.lobby.room();
        if room.willing.remove(&entry.id).is_none() {
            // It was asked, and has something better to do: another has to leave.
            room.leaving.remove(&self.guest.seat);
            room.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::super::tenure::{Awaits, Tenure};
    use super::*;
    use crate::limits::HTTP_PATIENCE;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// One that comes; its seat, if it gets one.
    fn comes(lobby: &Lobby, of: Option<IpAddr>) -> JoinHandle<Option<Seat>> {
        let (lobby, place) = (lobby.clone(), lobby.enter(of).unwrap());
        tokio::spawn(async move { lobby.be_served(place).await })
    }

    async fn seats(lobby: &Lobby, of: Option<IpAddr>, count: usize) -> Vec<Seat> {
        let mut seats = Vec::new();
        for _ in 0..count {
            seats.push(comes(lobby, of).await.unwrap().unwrap());
        }
        seats
    }

    /// A connection that leaves when it is asked to.
    fn leaves(seat: Seat, patience: Duration) -> JoinHandle<()> {
        tokio::spawn(async move { seat.guest().to_give_way_after(patience).await })
    }

    #[tokio::test(start_paused = true)]
    async fn one_gives_way_for_each_who_waits() {
        let lobby = Lobby::of(2, 8, 0);
        let mut served = seats(&lobby, address(1), 2).await;
        let (first, second) = (leaves(served.remove(0), Duration::ZERO), leaves(served.remove(0), Duration::ZERO));
        let third = comes(&lobby, address(1)).await.unwrap().unwrap();
        first.await.unwrap();
        tokio::time::sleep(HTTP_WAIT / 4).await;
        assert!(!second.is_finished());
        // Of those that nobody gave way to nothing is left.
        second.abort();
        let fourth = comes(&lobby, address(1)).await.unwrap().unwrap();
        let (one, other) = (comes(&lobby, address(1)), comes(&lobby, address(2)));
        assert!(one.await.unwrap().is_none() && other.await.unwrap().is_none());
        drop((third, fourth));
        let room = lobby.room();
        assert!(room.seats.is_empty() && room.waiters.is_empty() && room.held.is_empty() && room.leaving.is_empty());
    }

    /// One that is busy is not asked, and one that was asked and became busy has another asked in its place.
    #[tokio::test(start_paused = true)]
    async fn a_busy_one_stands_in_no_queue() {
        let lobby = Lobby::of(2, 8, 0);
        let mut served = seats(&lobby, address(1), 2).await;
        let (seat, other) = (served.remove(0), served.remove(0));
        let mut tenure = Tenure::new(seat.guest(), HTTP_PATIENCE);
        let mut look = async |requests, awaits| {
            let mut polled = Poll::Pending;
            let look = std::future::poll_fn(|context| {
                polled = tenure.poll(context, requests, awaits);
                polled
            });
            timeout(HTTP_PATIENCE * 2 / 3, look).await.is_ok()
        };
        assert!(!look(1, Awaits::NextRequest).await);
        assert!(!look(2, Awaits::Us).await);
        let one = comes(&lobby, address(1));
        leaves(other, Duration::ZERO).await.unwrap();
        let one = one.await.unwrap();
        assert!(one.is_some() && !look(2, Awaits::NextRequest).await);
        // One that takes its answers too slowly gains nothing by asking more.
        let waits = comes(&lobby, address(1));
        let mut asked = 3;
        while !look(asked, Awaits::Taking).await {
            asked += 1;
            assert!(asked < 6);
        }
        waits.abort();
    }

    /// One address has taken all places: it is the first to leave, at once, and waits for itself alone.
    #[tokio::test(start_paused = true)]
    async fn an_address_beyond_its_share_gives_way_at_once() {
        let lobby = Lobby::of(8, 4, 2);
        let quiet = leaves(seats(&lobby, address(2), 1).await.remove(0), Duration::ZERO);
        let greedy: Vec<_> = seats(&lobby, address(1), 7)
            .await
            .into_iter()
            .map(|seat| leaves(seat, Duration::from_secs(3_600)))
            .collect();
        tokio::task::yield_now().await;
        // More of it: half of the places to wait in, and nobody leaves for them.
        let more: Vec<_> = (0..2).map(|_| comes(&lobby, address(1))).collect();
        assert!(lobby.enter(address(1)).is_none());
        let begun = tokio::time::Instant::now();
        let others: Vec<_> = (3..5).map(|n| comes(&lobby, address(n))).collect();
        let mut seats = Vec::new();
        for other in others {
            seats.push(other.await.unwrap().unwrap());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "those who are within their share do not wait");
        assert!(!quiet.is_finished(), "nor do they leave");
        assert_eq!(greedy.iter().filter(|one| one.is_finished()).count(), 2);
        for one in more {
            assert!(one.await.unwrap().is_none());
        }
    }

    #[test]
    fn what_is_counted_is_given_back() {
        let lobby = Lobby::of(1, 1, 2);
        let client = address(1).unwrap();
        let one = lobby.request(client);
        let other = lobby.request(client);
        assert!(one.is_some() && other.is_some() && lobby.request(client).is_none());
        drop(other);
        assert!(lobby.request(client).is_some());
        let overflow: Vec<_> = (0..HTTP_OVERFLOW_PER_ADDRESS).map(|_| lobby.overflow(address(1)).unwrap()).collect();
        assert!(lobby.overflow(address(1)).is_none() && lobby.overflow(address(2)).is_some());
        drop(overflow);
        assert!(lobby.overflow(address(1)).is_some());
    }
}
