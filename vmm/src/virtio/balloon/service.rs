//! The balloon on the `io` thread.

use super::control::BalloonControl;
use super::pages::Pages;
use super::{REPORTING, STATS, stats};
use crate::io::{Registry, Source};
use crate::memory::GuestRam;
use crate::virtio::chain::Whole;
use crate::virtio::queue::{Broken, DeviceQueue, TURN};
use crate::virtio::{Activation, Interrupt};
use std::io;
use vmm_sys_util::epoll::EventSet;

/// Pages given back in one turn at most: 16 MiB, some milliseconds.
pub(super) const PAGES: u64 = 4096;

/// Tokens: the doorbells, and the host's wishes.
pub(super) const INFLATE: u32 = 0;
pub(super) const DEFLATE: u32 = 1;
const STATISTICS: u32 = 2;
pub(super) const REPORTS: u32 = 3;
pub(super) const BELL: u32 = 4;

/// A queue of pages that the guest can do without.
struct Spare {
    queue: DeviceQueue,
    /// Which pages a chain names.
    named: fn(&Whole, &GuestRam) -> Pages,
    /// The chain that is being worked on, and what has not been given back of it.
    pending: Option<(u16, Pages)>,
}

impl Spare {
    fn new(queue: DeviceQueue, named: fn(&Whole, &GuestRam) -> Pages) -> Self {
        Self { queue, named, pending: None }
    }

    /// Gives pages back for one turn.
    fn serve(&mut self, ram: &GuestRam, control: &BalloonControl) -> Result<(), Broken> {
        let mut budget = PAGES;
        for _ in 0..TURN {
            let Some((head, mut pages)) = self.pending.take() else {
                let Some(chain) = self.queue.pop(ram)? else {
                    if self.queue.await_buffers()? {
                        continue;
                    }
                    return Ok(());
                };
                let head = chain.head_index();
                let chain = Whole::of(chain, self.queue.size());
                let pages = chain.map_or_else(|_| Pages::default(), |it| (self.named)(&it, ram));
                self.pending = Some((head, pages));
                continue;
            };
            control.gave_back(pages.give_back(ram, &mut budget));
            if !pages.is_empty() {
                self.pending = Some((head, pages));
                break;
            }
            self.queue.add_used(head, 0)?;
        }
        self.queue.ring();
        Ok(())
    }
}

/// The device's queues.
pub(super) struct Service {
    ram: GuestRam,
    inflate: Spare,
    deflate: DeviceQueue,
    stats: Option<DeviceQueue>,
    reports: Option<Spare>,
    /// The chain for statistics, which the host has until it wants new ones.
    held: Option<u16>,
    control: BalloonControl,
    interrupt: Interrupt,
}

impl Service {
    /// None if queues are missing.
    pub(super) fn new(activation: Activation, control: BalloonControl) -> Option<Self> {
        let mut queues = activation.queues.into_iter();
        let inflate = Spare::new(queues.next()?, Pages::numbered);
        let deflate = queues.next()?;
        let stats = if activation.features & STATS != 0 { Some(queues.next()?) } else { None };
        let reports = match activation.features & REPORTING {
            0 => None,
            _ => Some(Spare::new(queues.next()?, Pages::lying_in)),
        };
        Some(Self {
            ram: activation.ram,
            inflate,
            deflate,
            stats,
            reports,
            held: None,
            control,
            interrupt: activation.interrupt,
        })
    }

    /// Serves the queue `token` for one turn.
    fn serve(&mut self, token: u32) -> Result<(), Broken> {
        match token {
            INFLATE => {
                self.inflate.queue.answer();
                let served = self.inflate.serve(&self.ram, &self.control);
                self.inflate.queue.notify();
                served?;
            }
            DEFLATE => {
                self.deflate.answer();
                let served = self.acknowledge();
                self.deflate.notify();
                served?;
            }
            STATISTICS => self.take_stats()?,
            REPORTS => {
                if let Some(reports) = &mut self.reports {
                    reports.queue.answer();
                    let served = reports.serve(&self.ram, &self.control);
                    reports.queue.notify();
                    served?;
                }
            }
            _ => self.heed_the_host()?,
        }
        Ok(())
    }

    /// The guest takes pages back: they are there when it touches them.
    fn acknowledge(&mut self) -> Result<(), Broken> {
        for _ in 0..TURN {
            let Some(chain) = self.deflate.pop(&self.ram)? else {
                if self.deflate.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            self.deflate.add_used(head, 0)?;
        }
        self.deflate.ring();
        Ok(())
    }

    /// Takes what the guest says of its memory, unless the chain before is still here: a driver has
    /// only one.
    fn take_stats(&mut self) -> Result<(), Broken> {
        let Some(queue) = &mut self.stats else { return Ok(()) };
        queue.answer();
        while self.held.is_none() {
            let Some(chain) = queue.pop(&self.ram)? else {
                if queue.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            self.held = Some(chain.head_index());
            if let Ok(chain) = Whole::of(chain, queue.size()) {
                self.control.heard(stats::read(&chain, &self.ram));
            }
        }
        // What is there beside it is looked at when this one has been given back.
        queue.await_buffers().map(drop)
    }

    /// Tells the driver of a new target, and asks it for statistics.
    fn heed_the_host(&mut self) -> Result<(), Broken> {
        // Non-blocking, and only this thread reads it.
        let _ = self.control.bell().read();
        if self.control.is_news() {
            self.interrupt.config();
        }
        if self.control.take_wanted()
            && let (Some(queue), Some(head)) = (&mut self.stats, self.held.take())
        {
            queue.add_used(head, 0)?;
            queue.notify();
            self.take_stats()?;
        }
        Ok(())
    }
}

impl Source for Service {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.inflate.queue.doorbell().as_ref(), INFLATE, EventSet::IN)?;
        registry.watch(self.deflate.doorbell().as_ref(), DEFLATE, EventSet::IN)?;
        if let Some(stats) = &self.stats {
            registry.watch(stats.doorbell().as_ref(), STATISTICS, EventSet::IN)?;
        }
        if let Some(reports) = &self.reports {
            registry.watch(reports.queue.doorbell().as_ref(), REPORTS, EventSet::IN)?;
        }
        registry.watch(self.control.bell(), BELL, EventSet::IN)
    }

    fn ready(&mut self, token: u32, _events: EventSet, registry: &mut Registry<'_>) {
        if self.serve(token).is_err() {
            registry.forget_all();
            self.control.driver_left();
        }
    }
}
