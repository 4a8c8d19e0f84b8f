//! Routes in a graph of transports. Pure.
//!
//! Best first: a queue of beginnings, ordered by how long the whole route will be at least, which is exact since the
//! distances to the end are known beforehand. So routes come out shortest first, and a beginning that cannot reach
//! the end in time is never looked at. A route visits no visor twice, but for one that ends where it began.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    rc::Rc,
};

use dmsg_engine::identity::PublicKey;

use super::{Edge, Hop, Route, RouteOptions};
use crate::services::transport_discovery::{Transport, TransportId};

/// Routes per edge when the request does not say.
pub const ROUTES_DEFAULT: u16 = 5;

/// Routes per edge at most.
pub const ROUTES_MAX: u16 = 50;

/// Beginnings that are looked at for one edge, 100 bytes each: 10 MiB and some 20 ms. In a graph where routes of a
/// certain length are hard to find, none is found.
const STEPS_MAX: usize = 100_000;

/// The transports, by visor.
#[derive(Debug, Default)]
pub struct Graph {
    ends: HashMap<PublicKey, Vec<(TransportId, PublicKey)>>,
}

/// A beginning of a route: its last hop, and what is before it.
struct Beginning {
    hop: Hop,
    length: usize,
    before: Option<Rc<Self>>,
}

impl Beginning {
    fn visits(&self, visor: PublicKey) -> bool {
        let mut at = Some(self);
        while let Some(beginning) = at {
            if beginning.hop.from == visor || beginning.hop.to == visor {
                return true;
            }
            at = beginning.before.as_deref();
        }
        false
    }

    fn route(&self) -> Route {
        let mut hops = vec![self.hop];
        let mut at = self.before.as_deref();
        while let Some(beginning) = at {
            hops.push(beginning.hop);
            at = beginning.before.as_deref();
        }
        hops.reverse();
        hops
    }
}

impl Graph {
    /// The graph of these transports.
    pub fn new<'a>(transports: impl IntoIterator<Item = &'a Transport>) -> Self {
        let mut ends: HashMap<PublicKey, Vec<_>> = HashMap::new();
        for Transport { id, edges: [a, b], .. } in transports {
            ends.entry(*a).or_default().push((*id, *b));
            ends.entry(*b).or_default().push((*id, *a));
        }
        // The same answer to the same question.
        ends.values_mut().for_each(|list| list.sort_unstable());
        Self { ends }
    }

    /// Whether the visor has any transport.
    #[must_use]
    pub fn contains(&self, visor: PublicKey) -> bool {
        self.ends.contains_key(&visor)
    }

    fn from(&self, visor: PublicKey) -> &[(TransportId, PublicKey)] {
        self.ends.get(&visor).map_or(&[], Vec::as_slice)
    }

    /// Hops to `to`, from each visor that can reach it.
    fn distances(&self, to: PublicKey) -> HashMap<PublicKey, usize> {
        let mut distances = HashMap::from([(to, 0)]);
        let mut queue = VecDeque::from([(to, 0)]);
        while let Some((visor, distance)) = queue.pop_front() {
            for (_, next) in self.from(visor) {
                if !distances.contains_key(next) {
                    distances.insert(*next, distance + 1);
                    queue.push_back((*next, distance + 1));
                }
            }
        }
        distances
    }

    fn hops(&self, from: PublicKey) -> impl Iterator<Item = Hop> + use<'_> {
        self.from(from).iter().map(move |&(transport, to)| Hop { transport, from, to })
    }

    /// Routes along `edge`, shortest first.
    #[must_use]
    pub fn routes(&self, edge: Edge, options: RouteOptions) -> Vec<Route> {
        let min = usize::from(options.min_hops.max(1));
        let wanted = usize::from(options.routes_max.unwrap_or(ROUTES_DEFAULT).clamp(1, ROUTES_MAX));
        let mut search = Search {
            distances: self.distances(edge.to),
            hops_max: usize::from(options.max_hops),
            queue: BinaryHeap::new(),
            known: Vec::new(),
        };
        self.hops(edge.from).for_each(|hop| search.push(hop, None));
        let mut routes = Vec::new();
        while routes.len() < wanted
            && let Some(at) = search.pop()
        {
            if at.hop.to == edge.to {
                routes.extend((at.length >= min).then(|| at.route()));
                continue;
            }
            for hop in self.hops(at.hop.to).filter(|hop| hop.to == edge.to || !at.visits(hop.to)) {
                search.push(hop, Some(&at));
            }
        }
        routes
    }
}

/// A search under way.
struct Search {
    distances: HashMap<PublicKey, usize>,
    hops_max: usize,
    /// Length of the whole route at least, and which beginning.
    queue: BinaryHeap<Reverse<(usize, usize)>>,
    known: Vec<Rc<Beginning>>,
}

impl Search {
    fn push(&mut self, hop: Hop, before: Option<&Rc<Beginning>>) {
        let length = before.map_or(1, |before| before.length + 1);
        let Some(rest) = self.distances.get(&hop.to) else { return };
        if length + rest <= self.hops_max && self.known.len() < STEPS_MAX {
            self.queue.push(Reverse((length + rest, self.known.len())));
            self.known.push(Rc::new(Beginning { hop, length, before: before.cloned() }));
        }
    }

    fn pop(&mut self) -> Option<Rc<Beginning>> {
        let Reverse((_, index)) = self.queue.pop()?;
        self.known.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;
    use crate::services::route_finder::is_sound;

    fn visor(name: char) -> PublicKey {
        SecretKey::from_seed(name.to_string().as_bytes()).public_key()
    }

    /// A graph of links such as "ab": one transport each, of a type of its own where a link is given twice.
    fn graph(links: &[&str]) -> Graph {
        let transports: Vec<_> = links
            .iter()
            .enumerate()
            .map(|(index, link)| {
                let mut ends = link.chars().map(visor);
                let edges = [ends.next(), ends.next()].map(|end| end.unwrap_or_else(|| visor('?')));
                Transport::new(edges, format!("t{index}"), "")
            })
            .collect();
        Graph::new(&transports)
    }

    /// Lengths of the routes found; each is checked to be sound.
    fn lengths(graph: &Graph, ends: &str, options: RouteOptions) -> Vec<usize> {
        let mut ends = ends.chars().map(visor);
        let edge = Edge {
            from: ends.next().unwrap_or_else(|| visor('?')),
            to: ends.next().unwrap_or_else(|| visor('?')),
        };
        let routes = graph.routes(edge, options);
        assert!(routes.iter().all(|route| is_sound(route, edge, options)), "{routes:?}");
        routes.iter().map(Vec::len).collect()
    }

    fn hops(min_hops: u16, max_hops: u16) -> RouteOptions {
        RouteOptions { min_hops, max_hops, routes_max: None }
    }

    #[test]
    fn routes_come_shortest_first_within_their_bounds() {
        let net = graph(&["ab", "bc", "cd", "ad", "ac"]);
        assert_eq!(lengths(&net, "ad", hops(1, 50)), [1, 2, 3]);
        assert_eq!(lengths(&net, "ad", hops(2, 50)), [2, 3]);
        assert_eq!(lengths(&net, "ad", hops(1, 2)), [1, 2]);
        assert_eq!(lengths(&net, "ad", hops(4, 50)), [0; 0]);
        assert_eq!(lengths(&net, "ad", hops(1, 0)), [0; 0]);
    }

    #[test]
    fn two_links_between_two_visors_are_two_routes_and_five_are_enough() {
        let net = graph(&["ab"; 7]);
        assert_eq!(lengths(&net, "ab", hops(1, 1)), [1; 5]);
        let more = RouteOptions { routes_max: Some(6), ..hops(1, 1) };
        assert_eq!(lengths(&net, "ab", more).len(), 6);
    }

    #[test]
    fn a_visor_finds_the_way_to_itself_and_nobody_the_way_to_another_island() {
        let net = graph(&["ab", "cd"]);
        assert_eq!(lengths(&net, "aa", hops(1, 2)), [2]);
        assert_eq!(lengths(&net, "ac", hops(1, 50)), [0; 0]);
        assert_eq!(lengths(&net, "ax", hops(1, 50)), [0; 0]);
    }

    #[test]
    fn a_dense_graph_is_searched_in_bounded_work() {
        let names: Vec<char> = ('a'..='z').collect();
        let mut links = Vec::new();
        for (index, a) in names.iter().enumerate() {
            links.extend(names[index + 1..].iter().map(|b| format!("{a}{b}")));
        }
        let links: Vec<&str> = links.iter().map(String::as_str).collect();
        let net = graph(&links);
        assert_eq!(lengths(&net, "az", hops(1, 50)), [1, 2, 2, 2, 2]);
        // Long ones are found or not, but the search ends.
        let _ = lengths(&net, "az", hops(20, 25));
    }
}
