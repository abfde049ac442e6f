//! What admins see.

use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use levee_kafka::messages::consumer_group_describe_response::DescribedGroup as ConsumerGroup;
use levee_kafka::messages::describe_groups_request::DescribeGroupsRequest;
use levee_kafka::messages::describe_groups_response::DescribedGroup;
use levee_kafka::messages::list_groups_request::ListGroupsRequest;

use super::consumer_client::client;
use super::offsets_client::NOBODY;
use super::{GROUP, OK, World, code};
use crate::{Answer, Request};

fn list(world: &mut World, states: &[&str], types: &[&str]) -> Vec<String> {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let request = ListGroupsRequest { states_filter: own(states), types_filter: own(types) };
    match world.ask(5, Request::ListGroups(request)) {
        Answer::ListGroups(answer) => {
            let each = answer.groups.into_iter();
            each.map(|g| format!("{} {} {}", g.group_state, g.group_type, g.protocol_type))
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

fn describe(world: &mut World, version: i16) -> DescribedGroup {
    let request = DescribeGroupsRequest { groups: vec![GROUP.into()], ..Default::default() };
    match world.ask(version, Request::DescribeGroups(request)) {
        Answer::DescribeGroups(answer) => answer.groups.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn describe_consumer(world: &mut World) -> ConsumerGroup {
    let request =
        ConsumerGroupDescribeRequest { group_ids: vec![GROUP.into()], ..Default::default() };
    match world.ask(1, Request::ConsumerGroupDescribe(request)) {
        Answer::ConsumerGroupDescribe(answer) => answer.groups.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut world = World::new();
    world.topic("t", 1);
    assert!(list(&mut world, &[], &[]).is_empty());
    world.commit(NOBODY, 0, 1);
    assert_eq!(list(&mut world, &[], &[]), ["Empty classic "]);
    world.stable(1);
    assert_eq!(list(&mut world, &["sTable"], &[]), ["Stable classic consumer"]);
    assert!(list(&mut world, &["Empty"], &[]).is_empty());
    assert!(list(&mut world, &[], &["consumer"]).is_empty());
    assert_eq!(list(&mut world, &[], &["Classic"]).len(), 1);
}

#[test]
fn a_classic_group_is_described() {
    let mut world = World::new();
    let absent = describe(&mut world, 6);
    assert_eq!(absent.error_code, code(ErrorCode::GroupIdNotFound));
    assert!(absent.error_message.is_some());
    let absent = describe(&mut world, 5);
    assert_eq!((absent.error_code, absent.group_state.as_str()), (OK, "Dead"));
    let ids = world.stable(2);
    let group = describe(&mut world, 6);
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("Stable", "range"));
    let leader = group.members.iter().find(|member| member.member_id == ids[0]).unwrap();
    assert_eq!((&leader.member_metadata[..], leader.member_assignment.len()), (&b"m"[..], 6));
    assert_eq!((leader.client_id.as_str(), leader.client_host.as_str()), ("c", "/127.0.0.1"));
    world.join_new();
    let group = describe(&mut world, 6);
    assert_eq!((group.group_state.as_str(), group.members.len()), ("PreparingRebalance", 3));
    assert!(group.members.iter().all(|member| member.member_metadata.is_empty()));
    assert_eq!(describe_consumer(&mut world).error_code, code(ErrorCode::GroupIdNotFound));
}

#[test]
fn a_consumer_group_is_described() {
    let mut world = World::new();
    world.topic("t", 2);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    b.join(&mut world);
    let group = describe_consumer(&mut world);
    assert_eq!(
        (group.group_state.as_str(), group.assignor_name.as_str()),
        ("Reconciling", "uniform")
    );
    assert_eq!((group.group_epoch, group.assignment_epoch, group.members.len()), (2, 2, 2));
    let (a, b) = (&group.members[0], &group.members[1]);
    assert_eq!(a.assignment.topic_partitions[0].topic_name, "t");
    assert_eq!(a.assignment.topic_partitions[0].partitions, [0, 1]);
    assert_eq!(a.target_assignment.topic_partitions[0].partitions.len(), 1);
    assert!(b.assignment.topic_partitions.is_empty());
    assert_eq!((b.member_epoch, b.member_type), (2, 1));
    assert_eq!(describe(&mut world, 6).error_code, code(ErrorCode::GroupIdNotFound));
    assert_eq!(list(&mut world, &[], &["consumer"]), ["Reconciling consumer consumer"]);
}
