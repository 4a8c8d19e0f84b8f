//! Which tickets this client holds: to dial again whom it has dialled, and to know again who has dialled it
//! (`docs/extensions.md §1`; the messages are in [`noise::resume`](crate::noise::Ticket)).
//!
//! ```text
//!   dials    peer ─▶ nothing ──offered──▶ one offer is out ──granted──▶ a ticket, for TICKET_LIFETIME
//!                       ▲                    │ answered without, or 5 s             │ old, or unknown to the peer,
//!                       └────────────────────┴──────────────────────────────────────┘ or a dial by it failed
//!   granted  peer ─▶ the last ticket and the one before, each for GRANT_LIFETIME
//! ```
//!
//! One offer at a time to a peer: of several the peer would keep the last, and we perhaps another. Secrets do not outlive their
//! time by more than the interval of keep-alive pings, at which they are swept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    identity::PublicKey,
    noise::{Recent, Ticket, TicketId},
};

/// A ticket is used for so long. A thief of this memory can read what was said by ticket within this time, and nothing older.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(120);

/// Who granted it keeps it for longer, since the request is on its way for a while.
const GRANT_LIFETIME: Duration = TICKET_LIFETIME.saturating_add(Duration::from_secs(25));

/// An offer that nobody has answered for so long counts as lost.
const OFFER_LOST_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Held {
    ticket: Arc<Ticket>,
    until: Instant,
}

impl Held {
    fn new(ticket: Ticket, now: Instant, lifetime: Duration) -> Self {
        Self { ticket: Arc::new(ticket), until: now + lifetime }
    }

    fn is_good(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// What there is to dial a peer with.
#[derive(Default)]
struct Ours {
    held: Option<Held>,
    offered_at: Option<Instant>,
}

/// What a peer may dial us with.
#[derive(Default)]
struct Granted {
    last: Option<Held>,
    before: Option<Held>,
}

impl Granted {
    fn both(&self) -> impl Iterator<Item = &Held> {
        self.last.iter().chain(&self.before)
    }
}

/// How to dial a peer.
pub(super) enum Way {
    /// By this ticket.
    Ticket(Arc<Ticket>),
    /// By a handshake that offers to keep one.
    Offer,
    /// By a handshake.
    Plain,
}

/// See the module.
#[derive(Default)]
pub(super) struct Tickets {
    dials: Recent<Ours>,
    granted: Recent<Granted>,
}

/// For our dials.
impl Tickets {
    /// How to dial `peer` now. If it says [`Way::Offer`], the offer counts as out.
    pub(super) fn way(&mut self, peer: &PublicKey, now: Instant) -> Way {
        let key = peer.as_bytes();
        let Some(ours) = self.dials.get(key) else {
            self.dials.keep(*key, Ours { held: None, offered_at: Some(now) });
            return Way::Offer;
        };
        if let Some(held) = ours.held.as_ref().filter(|held| held.is_good(now)) {
            return Way::Ticket(Arc::clone(&held.ticket));
        }
        if ours.offered_at.is_some_and(|at| now < at + OFFER_LOST_AFTER) {
            return Way::Plain;
        }
        *ours = Ours { held: None, offered_at: Some(now) };
        Way::Offer
    }

    /// `peer` has answered an offer: with a ticket, or, knowing no such thing, without.
    pub(super) fn answered(&mut self, peer: &PublicKey, ticket: Option<Ticket>, now: Instant) {
        let held = ticket.map(|ticket| Held::new(ticket, now, TICKET_LIFETIME));
        self.dials.keep(*peer.as_bytes(), Ours { held, offered_at: None });
    }

    /// A dial by this ticket did not succeed: the next is by handshake.
    pub(super) fn forget(&mut self, peer: &PublicKey, id: &TicketId) {
        if let Some(ours) = self.dials.get(peer.as_bytes())
            && ours.held.as_ref().is_some_and(|held| held.ticket.id() == id)
        {
            ours.held = None;
        }
    }
}

/// For those who dial us.
impl Tickets {
    /// `peer` may dial us with this one.
    pub(super) fn grant(&mut self, peer: &PublicKey, ticket: Ticket, now: Instant) {
        let last = Some(Held::new(ticket, now, GRANT_LIFETIME));
        let before = self.granted.get(peer.as_bytes()).and_then(|granted| granted.last.take());
        self.granted.keep(*peer.as_bytes(), Granted { last, before });
    }

    /// The ticket of this name, if it was granted to `peer`.
    pub(super) fn granted(
        &mut self,
        peer: &[u8; PublicKey::LEN],
        id: &TicketId,
        now: Instant,
    ) -> Option<Arc<Ticket>> {
        let is_it = |held: &&Held| held.ticket.id() == id && held.is_good(now);
        let granted = self.granted.get(peer)?;
        granted.both().find(is_it).map(|held| Arc::clone(&held.ticket))
    }
}

/// For all.
impl Tickets {
    /// Forgets what is too old; returns for how many peers there is a ticket left, in either direction.
    pub(super) fn sweep(&mut self, now: Instant) -> usize {
        let mut left = 0;
        let drop_old = |held: &mut Option<Held>| {
            held.take_if(|held| !held.is_good(now));
        };
        self.dials.retain(|ours| {
            drop_old(&mut ours.held);
            ours.offered_at.take_if(|at| now >= *at + OFFER_LOST_AFTER);
            left += usize::from(ours.held.is_some());
            ours.held.is_some() || ours.offered_at.is_some()
        });
        self.granted.retain(|granted| {
            drop_old(&mut granted.last);
            drop_old(&mut granted.before);
            let is_some = granted.both().next().is_some();
            left += usize::from(is_some);
            is_some
        });
        left
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.dials.len() + self.granted.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{identity::SecretKey, noise::RECENT_MAX};

    fn ticket(number: u8) -> Ticket {
        Ticket::numbered(number)
    }

    fn key(number: usize) -> PublicKey {
        SecretKey::from_seed(&number.to_be_bytes()).public_key()
    }

    fn name(way: Way) -> &'static str {
        match way {
            Way::Ticket(_) => "ticket",
            Way::Offer => "offer",
            Way::Plain => "plain",
        }
    }

    #[test]
    fn one_offer_is_out_at_a_time_and_is_made_again_when_it_is_answered_or_lost() {
        let (mut tickets, now, peer) = (Tickets::default(), Instant::now(), key(1));
        assert_eq!(name(tickets.way(&peer, now)), "offer");
        assert_eq!(name(tickets.way(&peer, now)), "plain");
        assert_eq!(name(tickets.way(&key(2), now)), "offer", "another peer");
        tickets.answered(&peer, None, now);
        assert_eq!(name(tickets.way(&peer, now)), "offer", "answered without a ticket");
        let later = now + OFFER_LOST_AFTER;
        assert_eq!(name(tickets.way(&peer, later)), "offer", "lost");
        assert_eq!(name(tickets.way(&peer, later)), "plain");
    }

    #[test]
    fn a_ticket_is_used_for_its_lifetime_or_until_it_fails() {
        let (mut tickets, now, peer) = (Tickets::default(), Instant::now(), key(1));
        tickets.way(&peer, now);
        tickets.answered(&peer, Some(ticket(0)), now);
        let last = now + TICKET_LIFETIME - Duration::from_nanos(1);
        for at in [now, last] {
            assert_eq!(name(tickets.way(&peer, at)), "ticket");
        }
        tickets.forget(&peer, ticket(1).id());
        assert_eq!(name(tickets.way(&peer, now)), "ticket", "another one failed");
        tickets.forget(&peer, ticket(0).id());
        assert_eq!(name(tickets.way(&peer, now)), "offer");
        tickets.answered(&peer, Some(ticket(0)), now);
        assert_eq!(name(tickets.way(&peer, now + TICKET_LIFETIME)), "offer");
    }

    #[test]
    fn the_last_two_granted_are_known_to_their_peer_for_their_lifetime() {
        let (mut tickets, now, peer) = (Tickets::default(), Instant::now(), key(1));
        let ids = [0, 1, 2].map(|number| {
            tickets.grant(&peer, ticket(number), now);
            *ticket(number).id()
        });
        let mut knows =
            |peer: PublicKey, id, at| tickets.granted(peer.as_bytes(), id, at).is_some();
        assert_eq!(ids.each_ref().map(|id| knows(peer, id, now)), [false, true, true]);
        assert!(!knows(key(2), &ids[2], now), "somebody else's");
        let last = now + GRANT_LIFETIME - Duration::from_nanos(1);
        assert!(knows(peer, &ids[2], last) && !knows(peer, &ids[2], now + GRANT_LIFETIME));
    }

    #[test]
    fn secrets_go_when_their_time_is_over() {
        let (mut tickets, now, peer) = (Tickets::default(), Instant::now(), key(1));
        tickets.answered(&peer, Some(ticket(0)), now);
        tickets.grant(&peer, ticket(1), now);
        let held = Arc::downgrade(&tickets.granted(peer.as_bytes(), ticket(1).id(), now).unwrap());
        // An offer that is out is no ticket.
        tickets.way(&key(2), now);
        assert_eq!(tickets.sweep(now), 2);
        assert_eq!((tickets.sweep(now + TICKET_LIFETIME), held.strong_count()), (1, 1));
        assert_eq!((tickets.sweep(now + GRANT_LIFETIME), held.strong_count()), (0, 0));
        assert_eq!(tickets.len(), 0);
    }

    #[test]
    fn any_number_of_peers_leaves_a_bounded_number_of_tickets() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        for number in 0..RECENT_MAX + 100 {
            let peer = key(number);
            tickets.way(&peer, now);
            tickets.grant(&peer, ticket(0), now);
            assert!(tickets.len() <= 2 * RECENT_MAX);
        }
        assert_eq!(name(tickets.way(&key(0), now)), "offer", "it was forgotten");
    }
}
