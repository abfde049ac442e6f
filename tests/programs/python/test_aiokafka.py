"""aiokafka on Levee."""

import asyncio
import unittest

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import MessageSizeTooLargeError, ProducerFenced
from common import ADDRESS, LIMIT, unique


class Tests(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.admin = AIOKafkaAdminClient(bootstrap_servers=ADDRESS)
        await self.admin.start()
        self.addAsyncCleanup(self.admin.close)

    async def create(self, name, partitions=1, **config):
        topic = unique(name)
        await self.admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=config)])
        return topic

    async def producer(self, **config):
        producer = AIOKafkaProducer(bootstrap_servers=ADDRESS, **config)
        await producer.start()
        self.addAsyncCleanup(producer.stop)
        return producer

    async def consumer(self, *topics, **config):
        consumer = AIOKafkaConsumer(
            *topics, bootstrap_servers=ADDRESS, auto_offset_reset="earliest",
            enable_auto_commit=False, **config)
        await consumer.start()
        self.addAsyncCleanup(consumer.stop)
        return consumer

    async def read(self, consumer, count):
        records = []
        async with asyncio.timeout(LIMIT):
            while len(records) < count:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records += batch
        self.assertEqual(len(records), count)
        return records

    async def values(self, topic, isolation="read_committed"):
        consumer = await self.consumer(isolation_level=isolation)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        values = []
        async with asyncio.timeout(LIMIT):
            while await consumer.position(partition) < end:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    values += [record.value for record in batch]
        return values

    async def test_records(self):
        topic = await self.create("records")
        expected = []
        for codec in (None, "gzip"):
            producer = await self.producer(enable_idempotence=True, compression_type=codec)
            for n in range(200):
                headers = [("n", b"%d" % n)]
                sent = await producer.send(topic, b"%d " % n * 50, key=b"key", headers=headers)
                expected.append((b"key", b"%d " % n * 50, headers))
            self.assertEqual((await sent).offset, len(expected) - 1)
        consumer = await self.consumer()
        consumer.assign([TopicPartition(topic, 0)])
        records = await self.read(consumer, 400)
        self.assertEqual([(r.key, r.value, list(r.headers)) for r in records], expected)
        self.assertEqual([r.offset for r in records], list(range(400)))

    async def test_group_of_two_rebalances(self):
        topic, group = await self.create("share", 4), unique("group")
        producer = await self.producer()
        for partition in range(4):
            await producer.send_and_wait(topic, b"old", partition=partition)
        config = {"group_id": group, "session_timeout_ms": 10_000, "heartbeat_interval_ms": 500}
        first = await self.consumer(topic, **config)
        await self.read(first, 4)
        await first.commit()
        second = await self.consumer(topic, **config)
        async with asyncio.timeout(LIMIT):
            while [len(m.assignment()) for m in (first, second)] != [2, 2]:
                for member in (first, second):
                    again = await member.getmany(timeout_ms=50)
                    self.assertEqual(again, {}, "nothing is read twice")
        self.assertEqual(len(first.assignment() | second.assignment()), 4)
        for partition in range(4):
            await producer.send_and_wait(topic, b"new", partition=partition)
        new = await self.read(first, 2) + await self.read(second, 2)
        self.assertEqual(sorted((r.partition, r.offset, r.value) for r in new),
                         [(p, 1, b"new") for p in range(4)])
        await second.commit()
        self.assertEqual([await second.committed(p) for p in second.assignment()], [2, 2])

    async def test_too_large_message(self):
        topic = await self.create("large", **{"max.message.bytes": "10000"})
        producer = await self.producer()
        with self.assertRaises(MessageSizeTooLargeError):
            await producer.send_and_wait(topic, b"x" * 20_000)
        self.assertEqual((await producer.send_and_wait(topic, b"small")).offset, 0)

    async def test_transactions(self):
        source, target = await self.create("source"), await self.create("target")
        group, partition = unique("group"), TopicPartition(source, 0)
        plain = await self.producer()
        for n in range(10):
            await plain.send_and_wait(source, b"%d" % n)
        name = unique("id")
        producer = await self.producer(transactional_id=name)
        for commits in (False, True):
            reader = await self.consumer(source, group_id=group)
            records = await self.read(reader, 10)
            await producer.begin_transaction()
            for record in records:
                await producer.send(target, b"%s %s" % (str(commits).encode(), record.value))
            await producer.send_offsets_to_transaction(
                {partition: records[-1].offset + 1}, group)
            if commits:
                await producer.commit_transaction()
            else:
                await producer.abort_transaction()
            await reader.stop()
        committed = [b"True %d" % n for n in range(10)]
        self.assertEqual(await self.values(target), committed)
        self.assertEqual(await self.values(target, "read_uncommitted"),
                         [b"False %d" % n for n in range(10)] + committed)
        offsets = await self.admin.list_consumer_group_offsets(group)
        self.assertEqual(offsets[partition].offset, 10)

        await self.producer(transactional_id=name)
        with self.assertRaises(ProducerFenced):
            async with producer.transaction():
                await producer.send_and_wait(target, b"late")
        self.assertEqual(await self.values(target), committed)


if __name__ == "__main__":
    unittest.main()
