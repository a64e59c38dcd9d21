//! Disturbed ways between the parts.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::Instant;

use super::{Took, between};
use crate::bench::rig::Role;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::proxy::{Proxy, SMALL_SLICES, Way};
use crate::chaos::world::{Link, World};

impl World {
    /// Disturbs some ways for a while, heals them, and looks how soon work goes on.
    pub(super) async fn disturb_network(&mut self, kind: Kind, random: &mut StdRng) -> Result<Took, ChaosError> {
        let links = if kind == Kind::PostgresSlow { to_postgres() } else { some_links(random) };
        tracing::info!(?kind, ?links, "disturbing");
        // Of both ends: what comes meanwhile is disturbed as well.
        let mut open = 0;
        self.each(&links, |proxy| open += proxy.open());
        let cut = match kind {
            Kind::NetworkReset | Kind::NetworkHalfClose => self.cut(kind, &links, random).await,
            Kind::NetworkHole => self.open_a_hole(&links, random).await,
            _ => self.slow_down(kind, &links, random).await,
        };
        self.each(&links, |proxy| {
            proxy.hole(false);
            proxy.delay(Duration::ZERO);
            proxy.slice(0);
        });
        let count = cut?;
        let healed = Instant::now();
        self.each(&links, |proxy| open += proxy.open());
        if count > 0 {
            *self.report.cuts.entry(kind.name()).or_default() += count;
        }
        let cuts = matches!(kind, Kind::NetworkReset | Kind::NetworkHalfClose);
        self.follow_a_probe(kind.name(), healed, Some(DEPENDENCY_BOUND)).await?;
        Ok(if count > 0 || (!cuts && open > 0) { Took::Place } else { Took::No(kind.name()) })
    }

    fn each(&self, links: &[Link], act: impl FnMut(&Proxy)) {
        links.iter().filter_map(|link| self.proxy(*link)).for_each(act);
    }

    async fn cut(&self, kind: Kind, links: &[Link], random: &mut StdRng) -> Result<u64, ChaosError> {
        let mut count = 0;
        for _ in 0..random.random_range(1..=5) {
            let way = if random.random_bool(0.5) { Way::ToServer } else { Way::ToClient };
            self.each(links, |proxy| {
                count += if kind == Kind::NetworkReset { proxy.reset() } else { proxy.half_close(way) };
            });
            self.sleep(between(random, 20, 600)).await?;
        }
        Ok(count)
    }

    async fn open_a_hole(&self, links: &[Link], random: &mut StdRng) -> Result<u64, ChaosError> {
        let (time, after) = (between(random, 500, 7_000), random.random_range(0..3));
        self.each(links, |proxy| proxy.hole(true));
        self.sleep(time).await?;
        let mut count = 0;
        match after {
            0 => {}
            1 => self.each(links, |proxy| count += proxy.reset()),
            _ => {
                let redis: Vec<Link> = links.iter().copied().filter(|l| matches!(l, Link::Redis(_))).collect();
                self.each(&redis, |proxy| count += proxy.silence());
            }
        }
        Ok(count)
    }

    async fn slow_down(&self, kind: Kind, links: &[Link], random: &mut StdRng) -> Result<u64, ChaosError> {
        let latency = between(random, 10, 150);
        self.each(links, |proxy| match kind {
            Kind::NetworkSlices => proxy.slice(SMALL_SLICES),
            _ => proxy.delay(latency),
        });
        self.sleep(between(random, 1_000, 4_000)).await?;
        Ok(0)
    }
}

fn to_postgres() -> Vec<Link> {
    [Role::Worker, Role::Cron, Role::Api].map(Link::Postgres).to_vec()
}

/// One way, those of one process, those to one service, or all.
fn some_links(random: &mut StdRng) -> Vec<Link> {
    let all = Link::all();
    let role = Role::ALL[random.random_range(0..Role::ALL.len())];
    match random.random_range(0..6) {
        0 => all,
        1 => all.into_iter().filter(|link| matches!(link, Link::Redis(_))).collect(),
        2 => to_postgres(),
        3 => all.into_iter().filter(|link| *link == Link::Redis(role) || *link == Link::Postgres(role)).collect(),
        _ => all.choose(random).copied().into_iter().collect(),
    }
}
