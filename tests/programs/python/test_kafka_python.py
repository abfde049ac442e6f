"""kafka-python on Levee."""

import threading
import unittest

from common import ADDRESS, LIMIT, eventually, unique
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import (
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    NewTopic,
    OffsetSpec,
)
from kafka.errors import (
    MessageSizeTooLargeError,
    ProducerFencedError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

# A poll that ends while the member joins loses its partitions until the next rebalance.
POLL_MS = 5000
# What kafka-python brings itself; the others need more packages.
CODECS = (None, "gzip")
# For records whose timestamps are long ago.
FOREVER = {"retention.ms": "-1"}


class Member:
    """A consumer that reads and commits in a thread of its own."""

    def __init__(self, consumer):
        self.consumer = consumer
        self.records = []
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while not self.ends.is_set():
            for batch in self.consumer.poll(timeout_ms=POLL_MS).values():
                self.records.extend(batch)
                self.consumer.commit()
        self.consumer.close(autocommit=False)

    def partitions(self):
        return {partition.partition for partition in self.consumer.assignment()}

    def end(self):
        self.ends.set()
        self.thread.join(LIMIT)


class Tests(unittest.TestCase):
    def setUp(self):
        self.admin = KafkaAdminClient(bootstrap_servers=ADDRESS)
        self.addCleanup(self.admin.close)

    def create(self, name, partitions=1, **config):
        topic = unique(name)
        self.admin.create_topics([NewTopic(
            name=topic, num_partitions=partitions, replication_factor=1, topic_configs=config)])
        return topic

    def producer(self, **config):
        producer = KafkaProducer(bootstrap_servers=ADDRESS, **config)
        self.addCleanup(producer.close)
        return producer

    def consumer(self, *topics, **config):
        consumer = KafkaConsumer(
            *topics, bootstrap_servers=ADDRESS, auto_offset_reset="earliest",
            enable_auto_commit=False, **config)
        self.addCleanup(consumer.close, autocommit=False)
        return consumer

    def read(self, consumer, count):
        records = []

        def enough():
            for batch in consumer.poll(timeout_ms=POLL_MS).values():
                records.extend(batch)
            return len(records) >= count

        eventually(f"{count} records come", enough)
        self.assertEqual(len(records), count)
        return records

    def values(self, topic, isolation="read_committed"):
        """Of all records that such a reader may see."""
        consumer = self.consumer(isolation_level=isolation)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        values = []

        def at_end():
            for batch in consumer.poll(timeout_ms=200).values():
                values.extend(record.value for record in batch)
            return consumer.position(partition) >= end

        eventually(f"the reader is at {end}", at_end)
        return values

    def test_codecs_and_records(self):
        topic = self.create("codecs", **FOREVER)
        expected = []
        for number, codec in enumerate(CODECS):
            producer = self.producer(compression_type=codec, enable_idempotence=True,
                                     acks="all", linger_ms=20)
            at = 1_700_000_000_000 + number
            headers = [("n", b"1"), ("n", b"\x00\xff")]
            values = [b"%d " % n * 50 for n in range(200)]
            futures = [producer.send(topic, key=b"key", value=value, headers=headers,
                                     timestamp_ms=at) for value in values]
            offsets = [future.get(LIMIT).offset for future in futures]
            self.assertEqual(offsets, list(range(number * 200, number * 200 + 200)))
            expected += [(b"key", value, headers, at) for value in values]
        producer.send(topic, key=b"gone", value=None).get(LIMIT)
        consumer = self.consumer()
        consumer.assign([TopicPartition(topic, 0)])
        records = self.read(consumer, len(expected) + 1)
        self.assertEqual([(r.key, r.value, list(r.headers), r.timestamp) for r in records[:-1]],
                         expected)
        self.assertEqual((records[-1].key, records[-1].value), (b"gone", None))

    def test_group_of_two_rebalances(self):
        topic, group = self.create("share", 4), unique("group")
        producer = self.producer()
        for partition in range(4):
            for n in range(5):
                producer.send(topic, b"%d" % n, partition=partition)
        producer.flush(LIMIT)
        first = self.member(topic, group)
        eventually("all of it is read", lambda: len(first.records) >= 20)
        self.assertEqual({r.partition for r in first.records}, {0, 1, 2, 3})
        second = self.member(topic, group)

        def shared():
            mine, theirs = first.partitions(), second.partitions()
            return len(mine) == len(theirs) == 2 and mine | theirs == {0, 1, 2, 3}

        eventually("each member has two partitions", shared)
        described = self.admin.describe_groups([group])[group]
        self.assertEqual(described["group_state"], "Stable")
        self.assertEqual(len(described["members"]), 2)
        for partition in range(4):
            producer.send(topic, b"new", partition=partition).get(LIMIT)
        eventually("the new ones come", lambda: len(first.records + second.records) >= 24)
        self.assertEqual(sorted((r.partition, r.offset) for r in first.records[20:]),
                         [(p, 5) for p in sorted(first.partitions())])
        self.assertEqual(sorted((r.partition, r.offset) for r in second.records),
                         [(p, 5) for p in sorted(second.partitions())])
        first.end()
        eventually("the second has all of it", lambda: second.partitions() == {0, 1, 2, 3})
        producer.send(topic, b"last", partition=0).get(LIMIT)
        eventually("it comes", lambda: len(second.records) >= 3)
        self.assertEqual([r.value for r in second.records[2:]], [b"last"])

    def member(self, topic, group):
        consumer = self.consumer(topic, group_id=group, session_timeout_ms=10_000,
                                 heartbeat_interval_ms=500)
        member = Member(consumer)
        self.addCleanup(member.end)
        return member

    def test_offset_by_time_and_seek(self):
        topic = self.create("times", **FOREVER)
        producer = self.producer()
        for n in range(10):
            producer.send(topic, b"v%d" % n, timestamp_ms=1_700_000_000_000 + 1000 * n).get(LIMIT)
        consumer, partition = self.consumer(), TopicPartition(topic, 0)
        consumer.assign([partition])
        found = consumer.offsets_for_times({partition: 1_700_000_003_001})[partition]
        self.assertEqual((found.offset, found.timestamp), (4, 1_700_000_004_000))
        self.assertIsNone(consumer.offsets_for_times({partition: 1_800_000_000_000})[partition])
        consumer.seek(partition, found.offset)
        self.assertEqual([r.value for r in self.read(consumer, 6)],
                         [b"v%d" % n for n in range(4, 10)])

    def test_admin(self):
        topic = self.create("admin", 2, **{"retention.ms": "3600000"})
        with self.assertRaises(TopicAlreadyExistsError):
            self.admin.create_topics([NewTopic(
                name=topic, num_partitions=1, replication_factor=1)])
        (described,) = self.admin.describe_topics([topic])
        self.assertEqual(len(described["partitions"]), 2)
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        self.assertEqual(self.setting(resource, "retention.ms"), "3600000")
        self.admin.alter_configs([ConfigResource(
            ConfigResourceType.TOPIC, topic, configs={"retention.ms": "7200000"})])
        self.assertEqual(self.setting(resource, "retention.ms"), "7200000")
        self.admin.create_partitions({topic: 3})
        self.assertEqual(len(self.admin.describe_topics([topic])[0]["partitions"]), 3)

        producer, partition = self.producer(), TopicPartition(topic, 0)
        for n in range(10):
            producer.send(topic, b"%d" % n, partition=0).get(LIMIT)
        self.admin.delete_records({partition: 4})
        found = self.admin.list_partition_offsets({partition: OffsetSpec.EARLIEST})
        self.assertEqual(found[partition].offset, 4)

        group = unique("group")
        member = self.consumer(topic, group_id=group)
        self.read(member, 6)
        member.commit({partition: OffsetAndMetadata(8, "so far", -1)})
        self.assertIn("NonEmptyGroupError", str(self.admin.delete_groups([group])))
        member.close(autocommit=False)
        self.assertIn(group, [listed["group_id"] for listed in self.admin.list_groups()])
        committed = self.admin.list_group_offsets({group: [partition]})[group]
        self.assertEqual(committed[partition].offset, 8)
        self.assertEqual(committed[partition].metadata, "so far")
        self.admin.delete_groups([group])
        self.assertNotIn(group, [listed["group_id"] for listed in self.admin.list_groups()])

        self.admin.delete_topics([topic])
        self.assertNotIn(topic, self.admin.list_topics())
        with self.assertRaises(UnknownTopicOrPartitionError):
            self.admin.delete_topics([topic])

    def setting(self, resource, name):
        configs = self.admin.describe_configs([resource], config_filter="all")
        return configs["topic"][resource.name][name]["value"]

    def test_internal_topics_are_excluded(self):
        topic, group = self.create("plain"), unique("group")
        self.producer().send(topic, b"v").get(LIMIT)
        member = self.consumer(topic, group_id=group)
        self.read(member, 1)
        member.commit()
        self.assertIn("__consumer_offsets", self.admin.list_topics())
        reader = self.consumer(group_id=unique("group"))
        reader.subscribe(pattern=".*")
        eventually("all topics are assigned", lambda: (
            reader.poll(timeout_ms=POLL_MS), reader.assignment())[1])
        seen = {p.topic for p in reader.assignment()}
        self.assertIn(topic, seen)
        self.assertEqual({name for name in seen if name.startswith("__")}, set())

    def test_too_large_message(self):
        topic = self.create("large", **{"max.message.bytes": "10000"})
        producer = self.producer()
        with self.assertRaises(MessageSizeTooLargeError):
            producer.send(topic, b"x" * 20_000).get(LIMIT)
        # An idempotent producer of this client never gets over it.
        self.assertEqual(self.producer().send(topic, b"small").get(LIMIT).offset, 0)

    def test_transactions(self):
        source, target = self.create("source"), self.create("target")
        group, partition = unique("group"), TopicPartition(source, 0)
        plain = self.producer()
        for n in range(10):
            plain.send(source, b"%d" % n).get(LIMIT)
        name = unique("id")
        producer = self.producer(transactional_id=name)
        producer.init_transactions()
        for commits in (False, True):
            reader = self.consumer(source, group_id=group)
            records = self.read(reader, 10)
            producer.begin_transaction()
            for record in records:
                producer.send(target, b"%s %s" % (str(commits).encode(), record.value))
            producer.send_offsets_to_transaction(
                {partition: OffsetAndMetadata(records[-1].offset + 1, "", -1)},
                reader.group_metadata())
            producer.flush(LIMIT)
            if commits:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
            reader.close(autocommit=False)
        committed = [b"True %d" % n for n in range(10)]
        self.assertEqual(self.values(target), committed)
        self.assertEqual(self.values(target, "read_uncommitted"),
                         [b"False %d" % n for n in range(10)] + committed)
        self.assertEqual(self.admin.list_group_offsets({group: [partition]})[group]
                         [partition].offset, 10)

        second = self.producer(transactional_id=name)
        second.init_transactions()
        with self.assertRaises(ProducerFencedError):
            producer.begin_transaction()
            producer.send(target, b"late").get(LIMIT)
            producer.commit_transaction()
        self.assertEqual(self.values(target), committed)


if __name__ == "__main__":
    unittest.main()
