//! Offsets that nobody used for long enough end, and those of topics that are gone; so do groups
//! that are nothing without them.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{AllGroups, Offsets, Place, is_of_gone};
use crate::api::Effects;
use crate::groups::{Groups, Step};
use crate::topics::Topics;

/// Records that one tick writes; the rest follows in the next one.
const RECORDS_AT_ONCE: usize = 1_000;

impl Groups {
    /// Looks through groups, from where it stopped.
    pub(crate) fn expire_offsets(&mut self, now: i64, topics: &dyn Topics, effects: &mut Effects) {
        let mut from = std::mem::take(&mut self.check_from);
        let first = effects.records.len();
        let mut next = Bound::Included(from.as_str());
        let (settings, timers) = (&self.settings, &mut self.timers);
        let mut step = Step::new(now, settings, topics, timers, effects);
        let mut again_ms = settings.offsets_check_ms;
        while let Some((id, _)) = self.groups.range::<str, _>((next, Bound::Unbounded)).next() {
            let id = id.clone();
            let left = RECORDS_AT_ONCE.saturating_sub(step.effects.records.len() - first);
            self.offsets.expire_group(&mut self.groups, &mut step, &id, left);
            if step.effects.records.len() - first >= RECORDS_AT_ONCE {
                // There may be more of this one.
                self.check_from = id;
                again_ms = 1;
                break;
            }
            from = id;
            next = Bound::Excluded(from.as_str());
        }
        self.next_check = Some(now.saturating_add(again_ms));
    }
}

impl Offsets {
    fn expire_group(
        &mut self,
        groups: &mut AllGroups,
        step: &mut Step<'_>,
        id: &str,
        at_most: usize,
    ) {
        for place in self.expired(groups, step, id, at_most) {
            self.write_end(step, id, place);
        }
        let unused = groups.get(id).is_some_and(|group| group.is_idle());
        if unused && !self.groups.contains_key(id) {
            self.end_group(groups, step, id);
        }
    }

    fn expired(&self, groups: &AllGroups, step: &Step<'_>, id: &str, at_most: usize) -> Vec<Place> {
        let (Some(group), Some(offsets)) = (groups.get(id), self.groups.get(id)) else {
            return Vec::new();
        };
        let mut read: BTreeMap<&str, bool> = BTreeMap::new();
        let mut expired = Vec::new();
        for (place, offset) in &offsets.committed {
            if expired.len() == at_most {
                break;
            }
            let value = &offset.value;
            if is_of_gone(step, &place.0, value) && !offsets.is_pending(place) {
                expired.push(place.clone());
                continue;
            }
            let Some(since) = group.unused_since(value.commit_timestamp) else { continue };
            let over = match value.expire_timestamp {
                ms if ms < 0 => {
                    step.now.saturating_sub(since) >= step.settings.offsets_retention_ms
                }
                ms => step.now >= ms,
            };
            let topic = place.0.as_str();
            if over
                && !*read.entry(topic).or_insert_with(|| group.is_subscribed(topic))
                && !offsets.is_pending(place)
            {
                expired.push(place.clone());
            }
        }
        expired
    }
}
