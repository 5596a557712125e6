//! [`Entry`]: one instance, in each of its services.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};

use super::api::Servers;
use super::listing::{Holder, Listing};
use crate::deadline::Deadline;
use crate::registry::{Beat, Gone, LastGasp, Registration, RegistryError};

/// Nacos looks for instances without a heartbeat each 5 s.
const SWEEP: Duration = Duration::from_secs(5);

/// Nacos itself checks an instance that is not ephemeral; this is only to notice that its data were lost.
const LOOK: Duration = Duration::from_secs(30);

/// How long after a removal a heartbeat that was not answered may still be waited for.
const LATE: Duration = Duration::from_millis(300);

/// Between looks at a list that is behind: Nacos 2 and 3 make it anew half a second after a change.
const AGAIN: Duration = Duration::from_millis(100);

/// Of an instance that is new, so that one which an older process removed with its own, a moment too late, is back soon;
/// and of one that the list does not have, until it has caught up.
const YOUNG: Duration = Duration::from_secs(1);

/// How many heartbeats it is young.
const YOUTH: u8 = 5;

/// How many services are spoken of at a time: an application of Dubbo's may have dozens.
const AT_ONCE: usize = 8;

pub(super) struct Entry {
    pub(super) servers: Arc<Servers>,
    pub(super) listings: Vec<Listing>,
    pub(super) ttl: Duration,
    pub(super) ephemeral: bool,
    pub(super) disable_first: bool,
    /// Nacos has it, as far as is known.
    pub(super) known: bool,
    /// It has begun to leave, and is not to be kept alive any more.
    pub(super) leaving: bool,
    /// A heartbeat was sent and not answered: it may be heard later.
    pub(super) unanswered: bool,
    /// Heartbeats until now, as far as it matters.
    pub(super) beats: u8,
    /// What the list has said, where there is no other heartbeat.
    pub(super) looks: Looks,
}

/// What looks at the list tell of an instance that is not ephemeral. The list is behind, and leaves out what an operator has
/// disabled: neither is a reason to register anew.
#[derive(Default)]
pub(super) struct Looks {
    /// It was listed once since it was registered.
    seen: bool,
    /// The last look found it missing.
    missed: bool,
}

impl Looks {
    /// Whether it is still there, by what is listed now: not when it was seen, and then missed twice in a row.
    fn are_alive(&mut self, holders: &[Holder]) -> bool {
        let missing = holders.contains(&Holder::Nobody);
        self.seen |= !missing && holders.contains(&Holder::Us);
        let missed_before = std::mem::replace(&mut self.missed, missing);
        !(self.seen && missing && missed_before)
    }

    /// When to look again.
    const fn next(&self, is_young: bool) -> Duration {
        match !self.seen && is_young || self.seen && self.missed {
            true => YOUNG,
            false => LOOK,
        }
    }
}

impl Entry {
    /// Registers it in each of its services, or in none: where one refuses it, it is removed from the others, for which a
    /// quarter of the time is kept.
    ///
    /// # Errors
    ///
    /// [Unknown](RegistryError::unknown) when one was not answered, or the others could not be left.
    pub(super) async fn register(&self, by: Deadline) -> Result<(), RegistryError> {
        let to_register = match self.listings.len() {
            0 | 1 => by,
            _ => by.earlier_by(by.remaining() / 4),
        };
        self.servers.prepare(to_register).await?;
        let calls = self.listings.iter();
        let answers = each(calls.map(|listing| self.servers.register(listing, true, to_register)));
        let answers = answers.await;
        let may_be_there = |answer: &Result<(), RegistryError>| match answer {
            Ok(()) => true,
            Err(error) => error.is_unknown(),
        };
        let begun = self.listings.iter().zip(&answers);
        let begun = begun.filter(|(_, answer)| may_be_there(answer));
        let begun: Vec<_> = begun.map(|(listing, _)| listing).collect();
        let Err(error) = together(answers) else {
            return Ok(());
        };
        // One alone that was not answered is registered again, which is as good.
        if self.listings.len() > 1 {
            // Without a look before it: the list is behind, and may still have who was there before.
            let calls = begun.iter().map(|listing| self.servers.remove(listing, by));
            if let Err(left) = all(calls).await {
                return Err(RegistryError::unknown(format!(
                    "{error}; the other services, where it was registered, were not left: {left}"
                )));
            }
        }
        Err(error)
    }

    /// Whose the addresses are; what the user may not read is left out.
    async fn holders(&self, by: Deadline) -> Result<Vec<Holder>, RegistryError> {
        self.servers.prepare(by).await?;
        let calls = self.listings.iter();
        let holders = all(calls.map(|listing| self.servers.holder(listing, by))).await?;
        Ok(holders.into_iter().flatten().collect())
    }

    /// Whether another process is listed at the address by now, as far as that is told in time.
    async fn is_anothers(&self, listing: &Listing, by: Deadline) -> bool {
        // A part of the time: a server that is slow to list is to hear the rest all the same.
        let by = by.min(Deadline::after(by.remaining() / 3));
        match self.servers.holder(listing, by).await {
            Ok(holder) => holder == Some(Holder::Another),
            Err(error) => {
                let service = &listing.service;
                tracing::debug!(%error, service, "not looked at before it is changed");
                false
            }
        }
    }

    /// Whether it is there after its removal, by what tells at once and changes nothing: the heartbeat of v3, which is
    /// refused where there is no instance.
    async fn is_there(&self, listing: &Listing, by: Deadline) -> Result<bool, RegistryError> {
        Ok(self.servers.beat(listing, by).await? && !self.is_anothers(listing, by).await)
    }

    /// Registers it again, with `enabled=false`.
    async fn disable(&self, listing: &Listing, by: Deadline) -> Result<(), RegistryError> {
        match self.is_anothers(listing, by).await {
            true => Ok(()),
            false => self.servers.register(listing, false, by).await,
        }
    }

    /// Removes it from one service, unless another process is there by now. Whether it has.
    async fn remove(&self, listing: &Listing, by: Deadline) -> Result<bool, RegistryError> {
        if self.is_anothers(listing, by).await {
            return Ok(false);
        }
        self.servers.remove(listing, by).await?;
        Ok(true)
    }

    async fn remove_all(&self, by: Deadline) -> Result<bool, RegistryError> {
        self.servers.prepare(by).await?;
        let calls = self.listings.iter();
        let removed = all(calls.map(|listing| self.remove(listing, by))).await?;
        Ok(removed.contains(&true))
    }
}

/// What comes of each, in their order, some at a time. Each is tried, whatever becomes of the others.
async fn each<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    // Not the iterator itself: a stream of closures that borrow cannot be sent.
    let calls: Vec<_> = calls.collect();
    stream::iter(calls).buffered(AT_ONCE).collect().await
}

/// All of them, or what went wrong: rather that one was not answered than that one was refused.
fn together<T>(answers: Vec<Result<T, RegistryError>>) -> Result<Vec<T>, RegistryError> {
    let mut done = Vec::with_capacity(answers.len());
    let mut failed: Option<RegistryError> = None;
    for answer in answers {
        match answer {
            Ok(answer) => done.push(answer),
            Err(error) => match &failed {
                Some(first) if first.is_unknown() || !error.is_unknown() => {}
                _ => failed = Some(error),
            },
        }
    }
    failed.map_or(Ok(done), Err)
}

/// What comes of all of them.
async fn all<T>(
    calls: impl Iterator<Item = impl Future<Output = Result<T, RegistryError>>>,
) -> Result<Vec<T>, RegistryError> {
    together(each(calls).await)
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("listings", &self.listings)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Registration for Entry {
    fn listed_for(&self) -> Option<Duration> {
        Some(match self.ephemeral {
            true => self.ttl.saturating_mul(2).saturating_add(SWEEP),
            false => Duration::MAX,
        })
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        Some(self.servers.remove_with_last_gasp(&self.listings))
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        if self.leaving {
            return Ok(Beat::Lost);
        }
        let is_young = self.beats < YOUTH;
        let (is_known, next) = if self.ephemeral {
            self.unanswered = true;
            self.servers.prepare(by).await?;
            let calls = self.listings.iter();
            let known = all(calls.map(|listing| self.servers.beat(listing, by))).await?;
            self.unanswered = false;
            let next = self.ttl / 3;
            (
                !known.contains(&false),
                if is_young { next.min(YOUNG) } else { next },
            )
        } else {
            let holders = self.holders(by).await?;
            (self.looks.are_alive(&holders), self.looks.next(is_young))
        };
        self.beats = self.beats.saturating_add(1);
        if !is_known {
            self.known = false;
            return Ok(Beat::Lost);
        }
        Ok(Beat::Alive {
            next,
            listed_for: self.listed_for().unwrap_or_default(),
        })
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        self.leaving = true;
        if self.disable_first && self.known {
            // Half of the time at most: what counts comes after it.
            let half = by.min(Deadline::after(by.remaining() / 2));
            if let Err(error) = self.set_out_of_service(half).await {
                tracing::debug!(%error, "not disabled before the deregistration");
            }
        }
        let mut was_ours = self.remove_all(by).await?;
        if self.unanswered && self.servers.may_revive() {
            // A server that woke up again may take the two in any order.
            tokio::time::sleep(LATE.min(by.remaining() / 3)).await;
            if self.holders(by).await?.contains(&Holder::Us) {
                was_ours |= self.remove_all(by).await?;
            }
            self.unanswered = false;
        }
        // Nacos says the same of an instance that it does not know, and its list is a moment behind.
        Ok(match std::mem::replace(&mut self.known, false) {
            true if was_ours => Gone::Removed,
            _ => Gone::AlreadyGone,
        })
    }

    /// It is listed no more, and stays registered.
    async fn set_out_of_service(&mut self, by: Deadline) -> Result<(), RegistryError> {
        self.servers.prepare(by).await?;
        let calls = self.listings.iter();
        all(calls.map(|listing| self.disable(listing, by))).await?;
        Ok(())
    }

    /// Before it leaves, what Nacos tells clients. Then, whether it is there: what clients are told is half a second behind.
    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        if !self.leaving {
            let holders = self.holders(by).await?;
            return Ok(is_listed(&holders, self.listings.len()));
        }
        if self.ephemeral && !self.servers.may_revive() {
            self.servers.prepare(by).await?;
            let calls = self.listings.iter();
            let there = all(calls.map(|listing| self.is_there(listing, by))).await?;
            return Ok(Some(there.contains(&true)));
        }
        loop {
            let holders = self.holders(by).await?;
            let is_last = by.remaining() < AGAIN * 2;
            if is_last || !holders.contains(&Holder::Us) {
                return Ok(is_listed(&holders, self.listings.len()));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether any of them is ours; not known where one may not be read.
fn is_listed(holders: &[Holder], of: usize) -> Option<bool> {
    match holders.contains(&Holder::Us) {
        true => Some(true),
        false if holders.len() < of => None,
        false => Some(false),
    }
}
