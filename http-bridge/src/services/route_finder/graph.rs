//! Routes in a graph of transports. Pure.
//!
//! Best first: a queue of beginnings, ordered by how long the whole route will be at least: what is behind, the distance to
//! the end, which is known beforehand, and never less than the request wants. So routes come out shortest first, and a
//! beginning that cannot reach the end in time is never looked at. Of equal ones the youngest comes first: it is nearest
//! to its end. A route visits no visor twice, but for one that ends where it began.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    ops::RangeInclusive,
    rc::Rc,
};

use dmsg_engine::identity::PublicKey;

use super::{Edge, Hop, Route, RouteOptions};
use crate::services::transport_discovery::{Transport, TransportId};

/// Routes per edge when the request does not say.
pub const ROUTES_DEFAULT: u16 = 5;

/// Routes per edge at most.
pub const ROUTES_MAX: u16 = 50;

/// Transports that are looked at for one edge; each may become a beginning of 100 bytes: 10 MiB and some 20 ms. In a
/// graph where routes of a certain length are hard to find, none is found.
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

    fn hops(&self, from: PublicKey) -> impl DoubleEndedIterator<Item = Hop> + use<'_> {
        self.from(from).iter().map(move |&(transport, to)| Hop { transport, from, to })
    }

    /// Routes along `edge`, shortest first.
    #[must_use]
    pub fn routes(&self, edge: Edge, options: RouteOptions) -> Vec<Route> {
        let wanted = usize::from(options.routes_max.unwrap_or(ROUTES_DEFAULT).clamp(1, ROUTES_MAX));
        Search::new(self, edge, options).routes(wanted)
    }
}

/// A search under way.
struct Search<'g> {
    graph: &'g Graph,
    distances: HashMap<PublicKey, usize>,
    hops: RangeInclusive<usize>,
    /// Length of the whole route at least, and which beginning.
    queue: BinaryHeap<(Reverse<usize>, usize)>,
    known: Vec<Rc<Beginning>>,
    /// Transports looked at so far.
    steps: usize,
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph, edge: Edge, options: RouteOptions) -> Self {
        let mut search = Self {
            graph,
            distances: graph.distances(edge.to),
            hops: usize::from(options.min_hops.max(1))..=usize::from(options.max_hops),
            queue: BinaryHeap::new(),
            known: Vec::new(),
            steps: 0,
        };
        search.go_on_from(edge.from, None);
        search
    }

    /// The next routes, shortest first.
    fn routes(&mut self, wanted: usize) -> Vec<Route> {
        let mut routes = Vec::new();
        while routes.len() < wanted
            && let Some(at) = self.pop()
        {
            if self.is_end(at.hop.to) {
                routes.push(at.route());
            } else {
                self.go_on_from(at.hop.to, Some(&at));
            }
        }
        routes
    }

    fn go_on_from(&mut self, visor: PublicKey, before: Option<&Rc<Beginning>>) {
        let graph = self.graph;
        // The last one is looked at first: that shall be the first.
        for hop in graph.hops(visor).rev() {
            if self.is_over() {
                return;
            }
            self.push(hop, before);
        }
    }

    fn is_end(&self, visor: PublicKey) -> bool {
        self.distances.get(&visor) == Some(&0)
    }

    fn is_over(&self) -> bool {
        self.steps >= STEPS_MAX
    }

    fn push(&mut self, hop: Hop, before: Option<&Rc<Beginning>>) {
        self.steps += 1;
        let length = before.map_or(1, |before| before.length + 1);
        let Some(rest) = self.distances.get(&hop.to) else { return };
        let is_end = *rest == 0;
        let total = length + rest;
        if total > *self.hops.end() || (is_end && length < *self.hops.start()) {
            return;
        }
        if !is_end && before.is_some_and(|before| before.visits(hop.to)) {
            return;
        }
        self.queue.push((Reverse(total.max(*self.hops.start())), self.known.len()));
        self.known.push(Rc::new(Beginning { hop, length, before: before.cloned() }));
    }

    /// The most promising beginning. Once the search is over, only routes that are known already are told.
    fn pop(&mut self) -> Option<Rc<Beginning>> {
        let (_, index) = self.queue.pop()?;
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
        assert_eq!(lengths(&net, "az", hops(20, 25)), [20; 5]);
    }

    #[test]
    fn a_hard_question_costs_no_more_than_another() {
        // 450 visors, each linked with every other one: all that the table of transports holds.
        let visors: Vec<PublicKey> =
            (0..450u32).map(|n| SecretKey::from_seed(&n.to_be_bytes()).public_key()).collect();
        let mut ends: HashMap<PublicKey, Vec<_>> = HashMap::new();
        let (a, b) = (visors[0], visors[1]);
        let id = Transport::new([a, b], "dmsg", "").id;
        for from in &visors {
            let others = visors.iter().filter(|to| *to != from);
            ends.insert(*from, others.map(|to| (id, *to)).collect());
        }
        // A visor behind one of them, so that most of what is tried ends in nothing.
        let far = SecretKey::from_seed(b"far").public_key();
        ends.entry(b).or_default().push((id, far));
        ends.insert(far, vec![(id, b)]);
        let net = Graph { ends };
        for to in [b, far] {
            for (min, max) in [(1, 50), (2, 2), (3, 3), (40, 50), (50, 50)] {
                let mut search = Search::new(&net, Edge { from: a, to }, hops(min, max));
                let found = search.routes(5);
                assert!(search.steps < STEPS_MAX + 450, "{min}..={max}: {} steps", search.steps);
                assert!(found.len() <= 5);
            }
        }
        let long = net.routes(Edge { from: a, to: b }, hops(40, 50));
        assert_eq!(long.len(), 5, "these are not hard to find");
    }
}
