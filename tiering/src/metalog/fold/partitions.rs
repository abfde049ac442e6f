//! Topics and their partitions: who leads, where the log starts.

use std::ops::Range;

use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::metalog::image::{EpochStart, Leader, LostRange, Partition, Topic};
use levee_proto::metalog::*;

use super::super::state::MetaState;
use super::{Checked, ensure};

impl MetaState {
    pub(super) fn partition(&mut self, id: PartitionId) -> Result<&mut Partition, String> {
        self.partitions.get_mut(&id).ok_or_else(|| format!("no partition {id}"))
    }

    pub(super) fn loss_accepted(&mut self, r: &LossAccepted) -> Checked {
        let partition = self.partition(r.partition)?;
        let leader = partition.leader.as_mut().ok_or("was never led")?;
        ensure(r.from <= r.to && r.to >= leader.start, || format!("{}..{}", r.from, r.to))?;
        leader.loss_accepted = Some(r.to);
        partition.losses.push(LostRange { from: r.from, to: r.to });
        Ok(())
    }

    /// I3, I4: the lane is live, epochs increase, offsets tile.
    pub(super) fn grant(&mut self, r: &Grant) -> Checked {
        self.open_session(r.lane.session)?;
        let lane = self.lanes.get(&r.lane).ok_or_else(|| format!("no lane {}", r.lane))?;
        ensure(lane.end.is_none(), || format!("lane {} is closed", r.lane))?;
        if let Some(old) = self.partitions.get(&r.partition).and_then(|p| p.leader.as_ref()) {
            ensure(r.leader_epoch > old.epoch, || {
                format!("epoch {} after {}", r.leader_epoch, old.epoch)
            })?;
            let closed = self.lanes.get(&old.lane).is_none_or(|lane| lane.end.is_some());
            match (old.handed_off, old.loss_accepted) {
                (Some(end), _) => ensure(r.start == end, || format!("{} at {end}", r.start))?,
                (None, Some(to)) => ensure(r.start == to, || format!("{} at {to}", r.start))?,
                (None, None) => ensure(closed && r.start >= old.start, || {
                    format!("{} after {} on {}", r.start, old.start, old.lane)
                })?,
            }
        }
        let partition = self.partition(r.partition)?;
        ensure(r.start >= partition.log_start, || {
            format!("{} below the log start {}", r.start, partition.log_start)
        })?;
        partition.leader = Some(Leader {
            epoch: r.leader_epoch,
            lane: r.lane,
            start: r.start,
            handed_off: None,
            loss_accepted: None,
        });
        // An epoch that wrote nothing leaves no trace in the history.
        partition.epochs.retain(|e| e.start < r.start);
        partition.epochs.push(EpochStart { epoch: r.leader_epoch, start: r.start });
        Ok(())
    }

    pub(super) fn hand_off_done(&mut self, r: &HandOffDone) -> Checked {
        let leader = self.partition(r.partition)?.leader.as_mut().ok_or("was never led")?;
        ensure(leader.epoch == r.leader_epoch && leader.handed_off.is_none(), || {
            format!("epoch {} at {} {:?}", r.leader_epoch, leader.epoch, leader.handed_off)
        })?;
        ensure(r.end >= leader.start, || format!("end {} below {}", r.end, leader.start))?;
        leader.handed_off = Some(r.end);
        Ok(())
    }

    pub(super) fn topic_create(&mut self, r: &TopicCreate) -> Checked {
        ensure(!self.names.contains_key(&r.name), || format!("{:?} exists", r.name))?;
        ensure(!self.topics.contains_key(&r.topic), || format!("id {} exists", r.topic))?;
        ensure(r.partitions > 0, || "no partitions".into())?;
        self.names.insert(r.name.clone(), r.topic);
        self.topics.insert(
            r.topic,
            Topic {
                id: r.topic,
                name: r.name.clone(),
                partitions: r.partitions,
                config: r.config.clone(),
                created_ms: r.created_ms,
                deleted_ms: None,
                purged: false,
            },
        );
        self.add_partitions(r.topic, 0..r.partitions);
        Ok(())
    }

    pub(super) fn add_partitions(&mut self, topic: TopicId, numbers: Range<u32>) {
        for partition in numbers {
            let id = PartitionId { topic, partition };
            let new = Partition {
                id,
                log_start: 0,
                l2_end: 0,
                leader: None,
                epochs: Vec::new(),
                losses: Vec::new(),
            };
            self.partitions.insert(id, new);
        }
    }

    pub(super) fn live_topic(&mut self, id: TopicId) -> Result<&mut Topic, String> {
        let topic = self.topics.get_mut(&id).filter(|t| t.deleted_ms.is_none());
        topic.ok_or_else(|| format!("no topic {id}"))
    }

    pub(super) fn topic_grow(&mut self, r: &TopicGrow) -> Checked {
        let topic = self.live_topic(r.topic)?;
        let old = topic.partitions;
        ensure(r.partitions > old, || format!("{} after {old} partitions", r.partitions))?;
        topic.partitions = r.partitions;
        self.add_partitions(r.topic, old..r.partitions);
        Ok(())
    }

    pub(super) fn topic_config(&mut self, r: &TopicConfig) -> Checked {
        let topic = self.live_topic(r.topic)?;
        topic.config.extend(r.set.clone());
        r.remove.iter().for_each(|key| drop(topic.config.remove(key)));
        Ok(())
    }

    pub(super) fn topic_delete(&mut self, r: &TopicDelete) -> Checked {
        let topic = self.live_topic(r.topic)?;
        topic.deleted_ms = Some(r.deleted_ms);
        let name = topic.name.clone();
        self.names.remove(&name);
        Ok(())
    }

    pub(super) fn topic_purge(&mut self, r: &TopicPurge) -> Checked {
        let topic = self.topics.get(&r.topic).ok_or_else(|| format!("no topic {}", r.topic))?;
        ensure(topic.deleted_ms.is_some(), || format!("{:?} is not deleted", topic.name))?;
        self.topics.remove(&r.topic);
        self.partitions.retain(|id, _| id.topic != r.topic);
        Ok(())
    }

    pub(super) fn log_start(&mut self, r: &LogStart) -> Checked {
        let partition = self.partition(r.partition)?;
        ensure(r.log_start >= partition.log_start, || {
            format!("{} after {}", r.log_start, partition.log_start)
        })?;
        partition.log_start = r.log_start;
        partition.l2_end = partition.l2_end.max(r.log_start);
        let keep_from = partition.epochs.partition_point(|e| e.start <= r.log_start);
        partition.epochs.drain(..keep_from.saturating_sub(1));
        partition.losses.retain(|lost| lost.to > r.log_start);
        Ok(())
    }
}
