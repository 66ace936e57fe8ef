//! How a set of backups leaves its chain: which are simply removed, and which kept ones take up what they needed of them.
//!
//! ```text
//!   A ◀── b ◀── c ◀── D ◀── e        delete b, c, e:   A ◀── D'      c, then b, merged into D; e just goes
//! ```
//! Pure: nothing is read or deleted here. What a backup shows stays exactly what it was, and whatever stays needs only
//! what stays.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_model::BackupId;

/// One backup of a VM in a repository, as far as chains are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLink {
    /// Its identity.
    pub id: BackupId,
    /// The backup it needs; none for a full.
    pub parent: Option<BackupId>,
    /// Kept whatever anybody asks.
    pub pinned: bool,
    /// Whether it is marked damaged: then nothing can be made of it.
    pub damaged: bool,
}

/// A kept backup that takes up what it needs of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The kept backup.
    pub into: BackupId,
    /// What it takes up: its parent first, then that one's, and so on.
    pub run: Vec<BackupId>,
    /// What it needs from then on; none where it becomes a full.
    pub new_parent: Option<BackupId>,
}

/// How backups leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainPlan {
    /// The backups that go, parents before what needs them.
    pub removed: Vec<BackupId>,
    /// What has to be made first, parents before what needs them. Each can be made without the others.
    pub merges: Vec<Merge>,
}

/// Why a set of backups cannot leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainRefusal {
    /// It is not there, or of another VM or repository.
    #[error("backup {0} is not there")]
    Unknown(BackupId),
    /// It is pinned.
    #[error("backup {0} is pinned; unpin it first")]
    Pinned(BackupId),
    /// A merge would have to read what is damaged.
    #[error("backup {damaged} is damaged and backup {kept} needs what it holds; delete that one too")]
    Damaged {
        /// The damaged one.
        damaged: BackupId,
        /// What would be made of it.
        kept: BackupId,
    },
    /// The chain does not end in a full.
    #[error("backup {0} needs a backup that is not there")]
    Broken(BackupId),
}

/// Plans the deletion of `deleted`. The answer depends on neither order.
///
/// # Errors
/// A [`ChainRefusal`]; then nothing of the set may be deleted.
pub fn plan_deletion(links: &[ChainLink], deleted: &[BackupId]) -> Result<ChainPlan, ChainRefusal> {
    let chain = Links::new(links);
    let gone: BTreeSet<BackupId> = deleted.iter().copied().collect();
    for id in &gone {
        let link = chain.known.get(id).ok_or(ChainRefusal::Unknown(*id))?;
        if link.pinned {
            return Err(ChainRefusal::Pinned(*id));
        }
    }
    let mut plan = ChainPlan::default();
    for id in chain.by_depth() {
        let link = chain.known[&id];
        if gone.contains(&id) {
            plan.removed.push(id);
        } else if link.parent.is_some_and(|parent| gone.contains(&parent)) {
            plan.merges.push(chain.merge(link, |above| !gone.contains(&above))?);
        }
    }
    Ok(plan)
}

/// Plans a synthetic full: everything that `id` needs is merged into it, and stays where it is for others. None for a
/// backup that is a full already.
///
/// # Errors
/// A [`ChainRefusal`].
pub fn plan_full(links: &[ChainLink], id: BackupId) -> Result<Option<Merge>, ChainRefusal> {
    let chain = Links::new(links);
    let link = chain.known.get(&id).ok_or(ChainRefusal::Unknown(id))?;
    if link.parent.is_none() {
        return Ok(None);
    }
    chain.merge(link, |_| false).map(Some)
}

struct Links<'a> {
    known: BTreeMap<BackupId, &'a ChainLink>,
}

impl<'a> Links<'a> {
    fn new(links: &'a [ChainLink]) -> Self {
        Self { known: links.iter().map(|link| (link.id, link)).collect() }
    }

    /// All ids, each after what it needs, those of one depth by id. A chain that leads nowhere counts as far as it goes.
    fn by_depth(&self) -> Vec<BackupId> {
        let depth = |id: BackupId| self.above(id).take(self.known.len()).count();
        let mut ids: Vec<BackupId> = self.known.keys().copied().collect();
        ids.sort_by_cached_key(|id| (depth(*id), *id));
        ids
    }

    /// What `id` needs, its parent first; without end where the links form a ring.
    fn above(&self, id: BackupId) -> impl Iterator<Item = &'a ChainLink> + '_ {
        let parent = |link: &&'a ChainLink| link.parent.and_then(|parent| self.known.get(&parent).copied());
        std::iter::successors(self.known.get(&id).copied(), parent).skip(1)
    }

    /// Merges into `link` everything above it up to the first that `stays`.
    fn merge(&self, link: &ChainLink, stays: impl Fn(BackupId) -> bool) -> Result<Merge, ChainRefusal> {
        let (mut run, mut next) = (Vec::new(), link.parent);
        if link.damaged {
            return Err(ChainRefusal::Damaged { damaged: link.id, kept: link.id });
        }
        while let Some(id) = next.filter(|id| !stays(*id)) {
            let source = self.known.get(&id).ok_or(ChainRefusal::Broken(link.id))?;
            if source.damaged {
                return Err(ChainRefusal::Damaged { damaged: id, kept: link.id });
            }
            if run.len() == self.known.len() {
                return Err(ChainRefusal::Broken(link.id));
            }
            run.push(id);
            next = source.parent;
        }
        Ok(Merge { into: link.id, run, new_parent: next })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A backup as a model: what it stores of a disk of a few clusters. 0 is an explicit zero.
    type Stored = BTreeMap<u8, u8>;
    type Model = BTreeMap<BackupId, (ChainLink, Stored)>;

    fn view(model: &Model, id: BackupId) -> Stored {
        let (link, stored) = &model[&id];
        let mut seen = link.parent.map(|parent| view(model, parent)).unwrap_or_default();
        seen.extend(stored);
        seen.retain(|_, value| *value != 0);
        seen
    }

    fn apply(model: &mut Model, plan: &ChainPlan) {
        for merge in &plan.merges {
            let mut merged = Stored::new();
            for layer in merge.run.iter().rev().chain([&merge.into]) {
                merged.extend(model[layer].1.clone());
            }
            let entry = model.get_mut(&merge.into).unwrap();
            entry.0.parent = merge.new_parent;
            entry.1 = merged;
        }
        for id in &plan.removed {
            model.remove(id);
        }
    }

    fn links(model: &Model) -> Vec<ChainLink> {
        model.values().map(|(link, _)| *link).collect()
    }

    /// Up to 12 backups in any number of chains and branches, some of them pinned or damaged (as damage spreads), and a
    /// set to delete.
    fn history() -> impl Strategy<Value = (Model, Vec<BackupId>)> {
        let stored = proptest::collection::btree_map(0..6_u8, 0..4_u8, 0..5);
        let one = (0..16_usize, stored, 0..20_u8, any::<bool>());
        proptest::collection::vec(one, 1..12).prop_map(|backups| {
            let ids: Vec<BackupId> = backups.iter().map(|_| BackupId::random()).collect();
            let (mut model, mut deleted) = (Model::new(), Vec::new());
            for (index, (parent, stored, fate, goes)) in backups.into_iter().enumerate() {
                // Mostly the one before, as real chains are; now and then a branch or a full.
                let parent = match parent {
                    0 => None,
                    1..=3 if index > 0 => Some(ids[parent % index]),
                    _ => index.checked_sub(1).map(|before| ids[before]),
                };
                let damaged = fate == 0 || parent.is_some_and(|parent| model[&parent].0.damaged);
                let link = ChainLink { id: ids[index], parent, pinned: fate == 1, damaged };
                model.insert(ids[index], (link, stored));
                if goes {
                    deleted.push(ids[index]);
                }
            }
            (model, deleted)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_kept_shows_what_it_showed_and_needs_only_what_is_kept((mut model, deleted) in history()) {
            let before = model.clone();
            let mut backwards = links(&model);
            backwards.reverse();
            let turned: Vec<_> = deleted.iter().rev().copied().collect();
            let plan = plan_deletion(&links(&model), &deleted);
            prop_assert_eq!(&plan, &plan_deletion(&backwards, &turned));
            match plan {
                Err(ChainRefusal::Pinned(id)) => {
                    prop_assert!(before[&id].0.pinned && deleted.contains(&id));
                }
                Err(ChainRefusal::Damaged { damaged, kept }) => {
                    prop_assert!(before[&damaged].0.damaged && !deleted.contains(&kept));
                }
                Err(other) => prop_assert!(false, "{other}"),
                Ok(plan) => {
                    apply(&mut model, &plan);
                    for id in before.keys() {
                        prop_assert_eq!(model.contains_key(id), !deleted.contains(id));
                    }
                    for (id, (link, _)) in &model {
                        prop_assert!(link.parent.is_none_or(|parent| model.contains_key(&parent)));
                        prop_assert_eq!(view(&model, *id), view(&before, *id));
                    }
                    prop_assert_eq!(plan_deletion(&links(&model), &[]), Ok(ChainPlan::default()));
                }
            }
        }

        #[test]
        fn one_by_one_ends_where_all_at_once_does((model, deleted) in history()) {
            let Ok(plan) = plan_deletion(&links(&model), &deleted) else { return Ok(()) };
            let (mut at_once, mut singly) = (model.clone(), model);
            apply(&mut at_once, &plan);
            for id in &deleted {
                // A damaged one may have to wait for what needs it.
                let Ok(plan) = plan_deletion(&links(&singly), &[*id]) else { return Ok(()) };
                apply(&mut singly, &plan);
            }
            prop_assert_eq!(at_once, singly);
        }

        #[test]
        fn a_synthetic_full_needs_nothing_and_shows_the_same((mut model, chosen) in history()) {
            let Some(&id) = chosen.first() else { return Ok(()) };
            let before = model.clone();
            match plan_full(&links(&model), id) {
                Ok(None) => prop_assert_eq!(before[&id].0.parent, None),
                Ok(Some(merge)) => {
                    prop_assert_eq!(merge.new_parent, None);
                    apply(&mut model, &ChainPlan { removed: Vec::new(), merges: vec![merge] });
                    for id in before.keys() {
                        prop_assert_eq!(view(&model, *id), view(&before, *id));
                    }
                }
                Err(ChainRefusal::Damaged { damaged, .. }) => prop_assert!(before[&damaged].0.damaged),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    fn link(id: BackupId, parent: Option<BackupId>) -> ChainLink {
        ChainLink { id, parent, pinned: false, damaged: false }
    }

    #[test]
    fn the_picture_above() {
        let ids: Vec<BackupId> = (0..5).map(|_| BackupId::random()).collect();
        let chain: Vec<ChainLink> =
            (0..5).map(|at: usize| link(ids[at], at.checked_sub(1).map(|before| ids[before]))).collect();
        let plan = plan_deletion(&chain, &[ids[4], ids[1], ids[2]]).unwrap();
        let merge = Merge { into: ids[3], run: vec![ids[2], ids[1]], new_parent: Some(ids[0]) };
        assert_eq!(plan, ChainPlan { removed: vec![ids[1], ids[2], ids[4]], merges: vec![merge] });
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        let [a, b, absent] = [(); 3].map(|()| BackupId::random());
        let broken = [link(a, Some(absent)), link(b, Some(a))];
        assert_eq!(plan_deletion(&broken, &[absent]), Err(ChainRefusal::Unknown(absent)));
        assert_eq!(plan_full(&broken, b), Err(ChainRefusal::Broken(b)));
        let ring = [link(a, Some(b)), link(b, Some(a))];
        assert_eq!(plan_full(&ring, b), Err(ChainRefusal::Broken(b)));
        assert!(plan_deletion(&ring, &[a]).is_ok_and(|plan| plan.merges[0].new_parent == Some(b)));
    }
}
