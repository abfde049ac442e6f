"""confluent-kafka (librdkafka) on Levee."""

import time
import unittest

from common import ADDRESS, LIMIT, eventually, unique
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

ADMIN = AdminClient({"bootstrap.servers": ADDRESS})
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PROTOCOLS = ("classic", "consumer")
# For records whose timestamps are long ago.
FOREVER = {"retention.ms": "-1"}


def only(answers):
    """The result of a request about one thing."""
    (future,) = answers.values()
    return future.result(LIMIT)


def create(name, partitions=1, **config):
    topic = unique(name)
    only(ADMIN.create_topics([NewTopic(topic, partitions, 1, config=config)]))
    return topic


def code(error):
    return error.exception.args[0].code()


def producer(**config):
    return Producer({"bootstrap.servers": ADDRESS, **config})


def consumer(group, **config):
    return Consumer({
        "bootstrap.servers": ADDRESS,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        **config,
    })


def send(to, topic, values, **more):
    """Gives the messages as they were acknowledged."""
    sent = []

    def acked(error, message):
        assert error is None, error
        sent.append(message)

    for value in values:
        to.produce(topic, value=value, on_delivery=acked, **more)
        to.poll(0)
    assert to.flush(LIMIT) == 0, "everything is acknowledged"
    return sent


def read(reader, count):
    """So many messages."""
    messages = []
    end = time.monotonic() + LIMIT
    while len(messages) < count:
        assert time.monotonic() < end, f"{len(messages)} of {count} came"
        for message in reader.consume(count - len(messages), 0.5):
            assert message.error() is None, message.error()
            messages.append(message)
    return messages


def read_all(topic, isolation="read_committed", partition=0):
    """The values of a partition, up to its end for such a reader."""
    reader = consumer("nobody", **{
        "isolation.level": isolation, "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, partition, 0)])
    values = []
    end = time.monotonic() + LIMIT
    while True:
        assert time.monotonic() < end, f"the end of {topic} comes"
        message = reader.poll(0.5)
        if message is None:
            continue
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            reader.close()
            return values
        values.append(message.value())


class Admin(unittest.TestCase):
    def test_cluster(self):
        cluster = ADMIN.describe_cluster().result(LIMIT)
        self.assertEqual([f"{node.host}:{node.port}" for node in cluster.nodes], [ADDRESS])
        self.assertTrue(cluster.cluster_id)
        self.assertEqual(cluster.controller.id, cluster.nodes[0].id)

    def test_life_of_a_topic(self):
        topic = create("life", 3, **{"retention.ms": "3600000"})
        described = only(ADMIN.describe_topics(TopicCollection([topic])))
        self.assertEqual([p.id for p in described.partitions], [0, 1, 2])
        self.assertTrue(all(len(p.isr) == 1 and p.leader for p in described.partitions))
        with self.assertRaises(KafkaException) as error:
            only(ADMIN.create_topics([NewTopic(topic, 1, 1)]))
        self.assertEqual(code(error), KafkaError.TOPIC_ALREADY_EXISTS)

        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        configs = only(ADMIN.describe_configs([resource]))
        self.assertEqual(configs["retention.ms"].value, "3600000")
        self.assertFalse(configs["retention.ms"].is_default)
        self.assertTrue(configs["cleanup.policy"].is_default)
        changed = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[
            ConfigEntry("retention.ms", "7200000",
                        incremental_operation=AlterConfigOpType.SET),
            ConfigEntry("max.message.bytes", "2000000",
                        incremental_operation=AlterConfigOpType.SET),
        ])
        only(ADMIN.incremental_alter_configs([changed]))
        configs = only(ADMIN.describe_configs([resource]))
        self.assertEqual(configs["retention.ms"].value, "7200000")
        self.assertEqual(configs["max.message.bytes"].value, "2000000")
        back = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[
            ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE)])
        only(ADMIN.incremental_alter_configs([back]))
        self.assertTrue(only(ADMIN.describe_configs([resource]))["retention.ms"].is_default)

        only(ADMIN.create_partitions([NewPartitions(topic, 5)]))
        self.assertEqual(len(ADMIN.list_topics(topic, LIMIT).topics[topic].partitions), 5)
        with self.assertRaises(KafkaException) as error:
            only(ADMIN.create_partitions([NewPartitions(topic, 4)]))
        self.assertEqual(code(error), KafkaError.INVALID_PARTITIONS)

        only(ADMIN.delete_topics([topic]))
        self.assertNotIn(topic, ADMIN.list_topics(timeout=LIMIT).topics)
        with self.assertRaises(KafkaException) as error:
            only(ADMIN.delete_topics([topic]))
        self.assertEqual(code(error), KafkaError.UNKNOWN_TOPIC_OR_PART)

    def test_offsets_and_deleted_records(self):
        topic = create("offsets")
        send(producer(), topic, [b"v%d" % n for n in range(10)], partition=0)
        partition = TopicPartition(topic, 0)

        def offset(spec):
            return only(ADMIN.list_offsets({partition: spec})).offset

        self.assertEqual((offset(OffsetSpec.earliest()), offset(OffsetSpec.latest())), (0, 10))
        deleted = only(ADMIN.delete_records([TopicPartition(topic, 0, 4)]))
        self.assertEqual(deleted.low_watermark, 4)
        self.assertEqual(offset(OffsetSpec.earliest()), 4)
        reader = consumer("nobody")
        self.assertEqual(reader.get_watermark_offsets(partition, LIMIT), (4, 10))
        reader.assign([TopicPartition(topic, 0, 4)])
        self.assertEqual(read(reader, 1)[0].value(), b"v4")
        reader.close()

    def test_groups(self):
        topic, group = create("groups", 2), unique("group")
        send(producer(), topic, [b"a", b"b"], partition=1)
        member = consumer(group, **{"client.id": "somebody"})
        member.subscribe([topic])
        read(member, 2)
        member.commit(asynchronous=False)
        described = only(ADMIN.describe_consumer_groups([group]))
        self.assertEqual(described.state, ConsumerGroupState.STABLE)
        (seen,) = described.members
        self.assertEqual(seen.client_id, "somebody")
        self.assertEqual(len(seen.assignment.topic_partitions), 2)
        with self.assertRaises(KafkaException) as error:
            only(ADMIN.delete_consumer_groups([group]))
        self.assertEqual(code(error), KafkaError.NON_EMPTY_GROUP)
        member.close()

        listed = {g.group_id: g for g in ADMIN.list_consumer_groups().result(LIMIT).valid}
        self.assertEqual(listed[group].state, ConsumerGroupState.EMPTY)
        asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 1)])]
        self.assertEqual(offsets(ADMIN.list_consumer_group_offsets(asked)), {1: 2})
        reset = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 1, 1)])]
        only(ADMIN.alter_consumer_group_offsets(reset))
        self.assertEqual(offsets(ADMIN.list_consumer_group_offsets(asked)), {1: 1})
        only(ADMIN.delete_consumer_groups([group]))
        listed = [g.group_id for g in ADMIN.list_consumer_groups().result(LIMIT).valid]
        self.assertNotIn(group, listed)
        with self.assertRaises(KafkaException) as error:
            only(ADMIN.delete_consumer_groups([group]))
        self.assertEqual(code(error), KafkaError.GROUP_ID_NOT_FOUND)


def offsets(answer):
    return {p.partition: p.offset for p in only(answer).topic_partitions}


class Produce(unittest.TestCase):
    def test_every_codec_keeps_records_as_they_are(self):
        topic = create("codecs", **FOREVER)
        headers = [("n", b"1"), ("n", b"\x00\xff"), ("none", None)]
        expected = []
        for number, codec in enumerate(CODECS):
            # Long enough for a codec to be worth it: librdkafka sends it plain where it is not.
            values = [b"%s %d " % (codec.encode(), n) * 50 for n in range(200)]
            to = producer(**{"enable.idempotence": True, "compression.type": codec,
                             "linger.ms": 20})
            at = 1_700_000_000_000 + number
            sent = send(to, topic, values, key=codec, headers=headers, timestamp=at)
            first = number * len(values)
            self.assertEqual([m.offset() for m in sent],
                             list(range(first, first + len(values))))
            expected += [(codec.encode(), value, headers, at) for value in values]
        reader = consumer("nobody")
        reader.assign([TopicPartition(topic, 0, 0)])
        messages = read(reader, len(expected))
        self.assertEqual([m.offset() for m in messages], list(range(len(expected))))
        for message, (key, value, headers, at) in zip(messages, expected):
            self.assertEqual((message.key(), message.value(), message.headers()),
                             (key, value, headers))
            self.assertEqual(message.timestamp(), (TIMESTAMP_CREATE_TIME, at))
        reader.close()

    def test_nothing_is_not_empty(self):
        topic = create("nothing")
        to = producer()
        send(to, topic, [None, b""], key=None)
        send(to, topic, [None], key=b"")
        reader = consumer("nobody")
        reader.assign([TopicPartition(topic, 0, 0)])
        self.assertEqual([(m.key(), m.value()) for m in read(reader, 3)],
                         [(None, None), (None, b""), (b"", None)])
        reader.close()

    def test_offset_by_time_and_seek(self):
        topic = create("times", **FOREVER)
        to = producer()
        for n in range(10):
            send(to, topic, [b"v%d" % n], timestamp=1_700_000_000_000 + 1000 * n)
        reader = consumer("nobody")

        def offset(at):
            (found,) = reader.offsets_for_times([TopicPartition(topic, 0, at)], LIMIT)
            assert found.error is None, found.error
            return found.offset

        self.assertEqual(offset(1_600_000_000_000), 0)
        self.assertEqual(offset(1_700_000_003_000), 3)
        self.assertEqual(offset(1_700_000_003_001), 4)
        # librdkafka's word for "behind all of them".
        self.assertEqual(offset(1_800_000_000_000), -1)
        reader.assign([TopicPartition(topic, 0, 0)])
        self.assertEqual(read(reader, 1)[0].value(), b"v0")
        reader.seek(TopicPartition(topic, 0, offset(1_700_000_006_500)))
        self.assertEqual([m.value() for m in read(reader, 3)], [b"v7", b"v8", b"v9"])
        reader.close()


class Errors(unittest.TestCase):
    def test_too_large_message(self):
        topic = create("large", **{"max.message.bytes": "10000"})
        failures = []
        to = producer(**{"message.max.bytes": 2_000_000})
        to.produce(topic, b"x" * 20_000, on_delivery=lambda error, _: failures.append(error))
        to.produce(topic, b"small", on_delivery=lambda error, _: failures.append(error))
        self.assertEqual(to.flush(LIMIT), 0)
        codes = sorted(error.code() if error else 0 for error in failures)
        # Alone in its batch or not: what is too large is refused, the rest may be with it.
        self.assertIn(codes, ([0, KafkaError.MSG_SIZE_TOO_LARGE],
                              [KafkaError.MSG_SIZE_TOO_LARGE] * 2))
        after = send(to, topic, [b"small"])
        self.assertIsNone(after[0].error())

    def test_unknown_topic(self):
        name = unique("unknown")
        reader = consumer(unique("group"), **{"allow.auto.create.topics": False})
        reader.subscribe([name])
        message = eventually("an error comes", lambda: reader.poll(0.5))
        self.assertEqual(message.error().code(), KafkaError.UNKNOWN_TOPIC_OR_PART)
        reader.close()
        with self.assertRaises(KafkaException) as error:
            only(ADMIN.describe_topics(TopicCollection([name])))
        self.assertEqual(code(error), KafkaError.UNKNOWN_TOPIC_OR_PART)

    def test_bad_settings_and_names(self):
        for topic, expected in (
            (NewTopic(unique("a"), 1, 1, config={"no.such.key": "1"}), "INVALID_CONFIG"),
            (NewTopic(unique("a"), 1, 1, config={"retention.ms": "soon"}), "INVALID_CONFIG"),
            (NewTopic("not a name", 1, 1), "TOPIC_EXCEPTION"),
            (NewTopic(unique("a"), 0, 1), "INVALID_PARTITIONS"),
        ):
            with self.assertRaises(KafkaException) as error:
                only(ADMIN.create_topics([topic]))
            self.assertEqual(error.exception.args[0].name(), expected, str(topic))
            self.assertTrue(error.exception.args[0].str())

    def test_offset_out_of_range(self):
        topic = create("range")
        send(producer(), topic, [b"only"])
        reader = consumer("nobody", **{"auto.offset.reset": "error"})
        reader.assign([TopicPartition(topic, 0, 100)])
        message = eventually("an error comes", lambda: reader.poll(0.5))
        self.assertEqual(message.error().code(), KafkaError._AUTO_OFFSET_RESET)
        reader.close()


class Groups(unittest.TestCase):
    def test_members_share_partitions(self):
        for protocol in PROTOCOLS:
            for strategy in ("range", "cooperative-sticky"):
                if (protocol, strategy) == ("consumer", "cooperative-sticky"):
                    continue  # The coordinator assigns.
                with self.subTest(protocol=protocol, strategy=strategy):
                    self.share(protocol, strategy)

    def share(self, protocol, strategy):
        topic, group = create("share", 4), unique("group")
        config = {"group.protocol": protocol}
        if protocol == "classic":
            config |= {"partition.assignment.strategy": strategy,
                       "session.timeout.ms": 10_000, "heartbeat.interval.ms": 500}
        to = producer()
        for partition in range(4):
            send(to, topic, [b"%d" % partition] * 5, partition=partition)
        first = consumer(group, **config)
        first.subscribe([topic])
        held = read(first, 20)
        self.assertEqual({m.partition() for m in held}, {0, 1, 2, 3})
        first.commit(asynchronous=False)

        second = consumer(group, **config)
        second.subscribe([topic])

        def shared():
            for member in (first, second):
                message = member.poll(0.05)
                assert message is None, f"nothing is read twice: {message}"
            mine, theirs = assigned(first), assigned(second)
            return len(mine) == len(theirs) == 2 and mine | theirs == {0, 1, 2, 3}

        eventually("each member has two partitions", shared)
        for partition in range(4):
            send(to, topic, [b"new"], partition=partition)
        new = read(first, 2) + read(second, 2)
        self.assertEqual(sorted(m.partition() for m in new), [0, 1, 2, 3])
        self.assertEqual([(m.offset(), m.value()) for m in new], [(5, b"new")] * 4)
        first.commit(asynchronous=False)
        second.commit(asynchronous=False)
        first.close()

        def alone():
            message = second.poll(0.05)
            assert message is None, f"nothing is read twice: {message}"
            return assigned(second) == {0, 1, 2, 3}

        eventually("the second has all of it", alone)
        committed = second.committed([TopicPartition(topic, p) for p in range(4)], LIMIT)
        self.assertEqual([p.offset for p in committed], [6] * 4)
        second.close()

    def test_static_member_comes_back_without_a_rebalance(self):
        for protocol in PROTOCOLS:
            with self.subTest(protocol=protocol):
                self.come_back(protocol)

    def come_back(self, protocol):
        topic, group = create("static", 2), unique("group")
        config = {"group.protocol": protocol}
        if protocol == "classic":
            config |= {"session.timeout.ms": 30_000, "heartbeat.interval.ms": 500}
        lost = []

        def member(name):
            joined = consumer(group, **config, **{"group.instance.id": name})
            joined.subscribe([topic], on_revoke=lambda _, gone: lost.append((name, gone)),
                             on_lost=lambda _, gone: lost.append((name, gone)))
            return joined

        members = {name: member(name) for name in ("a", "b")}

        def settled():
            for each in members.values():
                each.poll(0.05)
            return all(len(assigned(each)) == 1 for each in members.values())

        eventually("each has one partition", settled)
        before = assigned(members["b"])
        members["b"].close()
        lost.clear()
        members["b"] = member("b")
        eventually("b is back", settled)
        self.assertEqual(assigned(members["b"]), before)
        self.assertEqual(lost, [], "nobody lost anything by that")
        for each in members.values():
            each.close()

    def test_work_goes_on_where_it_was_committed(self):
        for protocol in PROTOCOLS:
            with self.subTest(protocol=protocol):
                topic, group = create("resume"), unique("group")
                send(producer(), topic, [b"%d" % n for n in range(10)])
                member = consumer(group, **{"group.protocol": protocol})
                member.subscribe([topic])
                seen = read(member, 4)
                member.commit(message=seen[-1], asynchronous=False)
                member.close()
                member = consumer(group, **{"group.protocol": protocol})
                member.subscribe([topic])
                self.assertEqual([m.value() for m in read(member, 6)],
                                 [b"%d" % n for n in range(4, 10)])
                member.close()


def assigned(member):
    return {p.partition for p in member.assignment()}


class Transactions(unittest.TestCase):
    def test_commit_and_abort(self):
        topic = create("transactions")
        to = producer(**{"transactional.id": unique("id")})
        to.init_transactions(LIMIT)
        to.begin_transaction()
        send(to, topic, [b"aborted %d" % n for n in range(5)])
        to.abort_transaction(LIMIT)
        to.begin_transaction()
        send(to, topic, [b"committed %d" % n for n in range(5)])
        self.assertEqual(read_all(topic), [], "an open transaction is not read")
        to.commit_transaction(LIMIT)
        committed = [b"committed %d" % n for n in range(5)]
        aborted = [b"aborted %d" % n for n in range(5)]
        self.assertEqual(read_all(topic), committed)
        self.assertEqual(read_all(topic, "read_uncommitted"), aborted + committed)
        to.begin_transaction()
        send(to, topic, [b"open"])
        spec = {TopicPartition(topic, 0): OffsetSpec.latest()}
        stable, end = (
            only(ADMIN.list_offsets(spec, isolation_level=level)).offset
            for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED))
        self.assertEqual((stable, end), (12, 13), "two markers, and one open record")
        to.abort_transaction(LIMIT)
        self.assertEqual(read_all(topic), committed)

    def test_read_work_write_is_exactly_once(self):
        for protocol in PROTOCOLS:
            with self.subTest(protocol=protocol):
                self.read_work_write(protocol)

    def read_work_write(self, protocol):
        source, target, group = create("source"), create("target"), unique("group")
        send(producer(), source, [b"%d" % n for n in range(100)])
        to = producer(**{"transactional.id": unique("id")})
        to.init_transactions(LIMIT)
        # Every second round is aborted, and read and written again.
        for number in range(8):
            reader = consumer(group, **{"group.protocol": protocol})
            reader.subscribe([source])
            messages = read(reader, 25)
            to.begin_transaction()
            send(to, target, [b"done " + m.value() for m in messages])
            to.send_offsets_to_transaction(
                [TopicPartition(source, 0, messages[-1].offset() + 1)],
                reader.consumer_group_metadata(), LIMIT)
            if number % 2 == 0:
                to.abort_transaction(LIMIT)
            else:
                to.commit_transaction(LIMIT)
            reader.close()
        self.assertEqual(read_all(target), [b"done %d" % n for n in range(100)])
        asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(source, 0)])]
        self.assertEqual(offsets(ADMIN.list_consumer_group_offsets(asked)), {0: 100})

    def test_second_producer_fences_the_first(self):
        topic, name = create("fenced"), unique("id")
        first = producer(**{"transactional.id": name})
        first.init_transactions(LIMIT)
        first.begin_transaction()
        send(first, topic, [b"first"])
        second = producer(**{"transactional.id": name})
        second.init_transactions(LIMIT)
        with self.assertRaises(KafkaException) as error:
            first.commit_transaction(LIMIT)
        self.assertEqual(code(error), KafkaError._FENCED)
        second.begin_transaction()
        send(second, topic, [b"second"])
        second.commit_transaction(LIMIT)
        self.assertEqual(read_all(topic), [b"second"])


if __name__ == "__main__":
    unittest.main()
