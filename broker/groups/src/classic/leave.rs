//! LeaveGroup.

use levee_kafka::ErrorCode;
use levee_kafka::messages::leave_group_request::MemberIdentity;

use super::{ClassicGroup, State};
use crate::groups::Step;

impl ClassicGroup {
    /// What became of each, in their order.
    pub(crate) fn leave(
        &mut self,
        step: &mut Step<'_>,
        members: &[MemberIdentity],
    ) -> Vec<Result<(), ErrorCode>> {
        let before = self.members.len();
        let left: Vec<_> = members.iter().map(|member| self.leave_one(step, member)).collect();
        match self.state {
            State::Empty => {}
            State::PreparingRebalance => self.end_join_if_all_did(step),
            // An id that never joined changes nothing for the others.
            _ if self.members.len() < before => self.rebalance(step),
            _ => {}
        }
        left
    }

    fn leave_one(&mut self, step: &mut Step<'_>, who: &MemberIdentity) -> Result<(), ErrorCode> {
        let instance = who.group_instance_id.as_deref();
        let id = match (who.member_id.as_str(), instance) {
            // An admin removes a static member by its instance only.
            ("", Some(instance)) => {
                self.instances.get(instance).cloned().ok_or(ErrorCode::UnknownMemberId)?
            }
            (id, _) => id.to_owned(),
        };
        if !self.pending_joins.contains(&id) {
            self.check_member(&id, instance)?;
        }
        self.remove(step, &id);
        Ok(())
    }
}
