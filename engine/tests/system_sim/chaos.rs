//! One run: a town drawn by the seed, a time of faults, a time of peace, the end.

use std::{
    collections::BTreeSet,
    task::{Context, Poll, Waker},
    time::Duration,
};

use dmsg_engine::{
    driver::sim::{Chunking, Link, Net},
    mux::MuxKind,
};

use crate::{
    end::End,
    town::{PendingDial, Town},
};

/// Longer than it takes to find out that a session is dead, twice.
const PEACE: Duration = Duration::from_secs(100);

/// What became of the streams of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub dialled: u64,
    pub failed: u64,
    /// Ends that read to the end of the stream, and those that a fault broke.
    pub whole: u64,
    pub broken: u64,
    pub bytes: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.dialled += other.dialled;
        self.failed += other.failed;
        self.whole += other.whole;
        self.broken += other.broken;
        self.bytes += other.bytes;
    }
}

struct Chaos {
    town: Town,
    ends: Vec<End>,
    dials: Vec<PendingDial>,
    /// Residents with a fault of their own, whose streams may break.
    struck: BTreeSet<usize>,
    frozen: BTreeSet<usize>,
    /// Streams whose other end was dropped by its owner.
    dropped: BTreeSet<(u8, u16)>,
    write_max: u64,
    finishing: bool,
    tally: Tally,
}

/// Runs a seed; panics if a rule is broken.
pub fn run(seed: u64) -> Tally {
    let mut chaos = Chaos::new(seed);
    let rounds = 30 + chaos.below(40);
    for _ in 0..rounds {
        chaos.act();
        let pause = Duration::from_micros(chaos.below(80_000));
        chaos.town.run_for(pause);
        chaos.poll();
    }
    chaos.make_peace();
    chaos.finish_streams();
    chaos.everybody_talks();
    chaos.end()
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut net = Net::new(seed);
        let one_byte = seed % 16 == 7;
        let link = Link {
            latency: Duration::from_micros(net.rng().below(20_000)),
            jitter: Duration::from_micros(net.rng().below(3000)),
            capacity_bytes: [2000, 16 * 1024, 256 * 1024][net.rng().below(3) as usize],
            rate: None,
            chunking: match net.rng().below(3) {
                _ if one_byte => Chunking::Exactly(1),
                0 => Chunking::Whole,
                1 => Chunking::Random(3000),
                _ => Chunking::Exactly(1000),
            },
        };
        net.set_link(link);
        let mut town = Town::new(net, 1 + (seed % 2) as u16);
        for _ in 0..2 + seed % 3 {
            let mux = [MuxKind::Yamux, MuxKind::Yamux, MuxKind::SmuxV2, MuxKind::SmuxV1]
                [town.net.rng().below(4) as usize];
            town.add_resident(mux);
        }
        town.run_for(Duration::from_millis(500));
        Self {
            town,
            ends: Vec::new(),
            dials: Vec::new(),
            struck: BTreeSet::new(),
            frozen: BTreeSet::new(),
            dropped: BTreeSet::new(),
            write_max: if one_byte { 300 } else { 40_000 },
            finishing: false,
            tally: Tally::default(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.town.net.rng().below(bound)
    }

    fn pick(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    fn act(&mut self) {
        let residents = self.town.residents.len();
        match self.below(100) {
            0..25 => {
                let (from, to) = (self.pick(residents), self.pick(residents));
                let dial = self.town.dial(from, to);
                self.dials.push(dial);
            }
            25..30 if !self.dials.is_empty() => {
                let index = self.pick(self.dials.len());
                let dial = self.dials.swap_remove(index);
                self.town.cancel(dial);
            }
            30..68 if !self.ends.is_empty() => {
                let index = self.pick(self.ends.len());
                let bytes = self.below(self.write_max);
                self.ends[index].write(bytes);
            }
            68..75 if !self.ends.is_empty() => {
                let index = self.pick(self.ends.len());
                self.ends[index].close();
            }
            75..79 if !self.ends.is_empty() => {
                let index = self.pick(self.ends.len());
                let end = self.ends.swap_remove(index);
                self.dropped.insert(end.name);
            }
            79..84 if !self.ends.is_empty() => {
                let index = self.pick(self.ends.len());
                let end = &mut self.ends[index];
                if end.stalled { end.unstall() } else { end.stalled = true }
            }
            84..92 => self.strike(),
            _ => self.jump(),
        }
    }

    /// A fault that may cost its resident what it has open.
    fn strike(&mut self) {
        let index = self.pick(self.town.residents.len());
        let node = self.town.residents[index].node;
        self.struck.insert(index);
        let wire = self.town.net.wires(node).first().copied();
        match (self.below(4), wire) {
            (0 | 1, Some(wire)) => self.town.net.kill(wire),
            (2, Some(wire)) => self.town.net.black_hole(wire),
            _ if self.frozen.remove(&index) => self.town.net.thaw(node),
            _ => {
                self.frozen.insert(index);
                self.town.net.freeze(node);
            }
        }
    }

    /// A clock that jumps by an hour costs nobody anything.
    fn jump(&mut self) {
        let hour = 3_600_000_000_000;
        let nanos = if self.below(2) == 0 { hour } else { -hour };
        let nodes: Vec<_> = (self.town.residents.iter().map(|resident| resident.node))
            .chain(self.town.cores.iter().map(|core| core.node))
            .collect();
        let index = self.pick(nodes.len());
        self.town.net.jump_wall_clock(nodes[index], nanos);
    }

    /// Takes what dials and listeners give, and lets every end do what it was woken for.
    fn poll(&mut self) {
        let mut index = 0;
        while index < self.dials.len() {
            match self.dials[index].outcome.try_recv() {
                Ok(outcome) => {
                    let dial = self.dials.swap_remove(index);
                    match outcome {
                        Ok(stream) => {
                            self.tally.dialled += 1;
                            self.ends.push(End::new(stream, dial.from, true));
                        }
                        Err(_) => {
                            self.tally.failed += 1;
                            // Whether it was a fault of the other's is all the same here.
                            assert!(self.may_fail(&dial), "a dial between the untouched failed");
                        }
                    }
                }
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => index += 1,
                Err(error) => panic!("a dial always gets an answer: {error}"),
            }
        }
        for (owner, resident) in self.town.residents.iter_mut().enumerate() {
            let cx = &mut Context::from_waker(Waker::noop());
            while let Poll::Ready(stream) = resident.listener.poll_accept(cx) {
                self.ends.push(End::new(stream.unwrap(), owner, false));
            }
        }
        for end in &mut self.ends {
            if self.finishing {
                end.close();
            }
            end.poll();
        }
    }

    fn is_untouched(&self, resident: usize) -> bool {
        // smux version 1 has no windows: what a stalled reader does not take ends its stream, and the relay's own patience
        // with its source is short.
        !self.struck.contains(&resident) && self.town.residents[resident].mux != MuxKind::SmuxV1
    }

    fn may_fail(&self, dial: &PendingDial) -> bool {
        !self.is_untouched(dial.from) || !self.is_untouched(dial.to)
    }

    fn make_peace(&mut self) {
        for index in std::mem::take(&mut self.frozen) {
            self.town.net.thaw(self.town.residents[index].node);
        }
        for end in &mut self.ends {
            end.unstall();
        }
    }

    /// Lets time pass until `done`.
    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = self.town.net.now() + PEACE;
        loop {
            self.poll();
            if done(self) {
                return;
            }
            assert!(self.town.net.now() < deadline, "{what}");
            self.town.run_for(Duration::from_millis(20));
        }
    }

    /// Every end that is left closes, and sees the other one close.
    fn finish_streams(&mut self) {
        // At once: a stream of which one direction has ended may not idle for long.
        self.finishing = true;
        self.wait("a dial does not end", |chaos| chaos.dials.is_empty());
        self.wait("a stream does not end", |chaos| chaos.ends.iter().all(End::is_over));
        for end in &self.ends {
            self.tally.bytes += end.read;
            self.tally.whole += u64::from(end.ended);
            self.tally.broken += u64::from(end.broken.is_some());
        }
        self.check_pairs();
        self.ends.clear();
    }

    /// Between residents without a fault, all that was written was read.
    fn check_pairs(&self) {
        for one in self.ends.iter().filter(|end| end.dialled) {
            // A port may have been used twice; then nobody can tell which end is which's.
            let mut others = self.ends.iter().filter(|end| !end.dialled && end.name == one.name);
            let (Some(other), None) = (others.next(), others.next()) else { continue };
            let untouched = self.is_untouched(one.owner) && self.is_untouched(other.owner);
            if !untouched || self.dropped.contains(&one.name) {
                continue;
            }
            let broken = one.broken.as_ref().or(other.broken.as_ref());
            assert!(broken.is_none(), "stream {:?} of the untouched: {broken:?}", one.name);
            assert_eq!((one.written, other.written), (other.read, one.read), "{:?}", one.name);
        }
    }

    /// After the faults, anybody reaches anybody.
    fn everybody_talks(&mut self) {
        let residents = self.town.residents.len();
        self.struck.clear();
        self.finishing = false;
        self.wait("a session does not come back", |chaos| {
            (0..residents).all(|index| chaos.town.sessions(index) == 1)
        });
        // A relay may still hold a session that its client has given up.
        self.town.run_for(Duration::from_secs(50));
        for from in 0..residents {
            for to in 0..residents {
                let dial = self.town.dial(from, to);
                self.dials.push(dial);
            }
        }
        let pairs = residents * residents;
        self.wait("a dial does not end", |chaos| chaos.dials.is_empty());
        self.wait("a stream is not accepted", |chaos| chaos.ends.len() == 2 * pairs);
        let bytes = self.write_max;
        for end in &mut self.ends {
            end.write(bytes);
            end.close();
        }
        self.wait("data does not arrive", |chaos| chaos.ends.iter().all(End::is_over));
        for end in &self.ends {
            assert!(
                end.broken.is_none() && end.read == bytes,
                "{end:?} of resident {}: {} of {bytes} bytes arrived; {:?}",
                end.owner,
                end.read,
                self.town.residents.iter().map(|resident| resident.mux).collect::<Vec<_>>()
            );
        }
        self.ends.clear();
    }

    fn end(mut self) -> Tally {
        let residents = self.town.residents.len();
        self.town.run_for(Duration::from_secs(12));
        assert!(!self.town.has_mail());
        self.town.assert_nothing_held(residents);
        for index in 0..residents {
            self.town.close(index);
        }
        self.town.run_for(Duration::from_secs(1));
        self.town.assert_nothing_held(0);
        self.tally
    }
}
