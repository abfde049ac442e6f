"""Writes numbers, and copies them in transactions, while somebody kills the broker. Says how far it
is; in the end every number was copied exactly once, in its order."""

import threading
import time

from common import ADDRESS, LIMIT, unique
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

NUMBERS = 6000
PARTITIONS = 2
# When all brokers are gone librdkafka begins anew with its bootstrap servers, and then
# send_offsets_to_transaction waits for ever for a broker that it has dropped (its issue 5511).
SERVER = {"bootstrap.servers": ADDRESS, "metadata.recovery.strategy": "none"}


def insist(call, *args):
    """Repeats what the client says may be repeated."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            return call(*args)
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > end:
                raise


def write(topic):
    failures = []

    def acked(error, _):
        if error:
            failures.append(error)

    producer = Producer({**SERVER, "enable.idempotence": True, "linger.ms": 5})
    for number in range(NUMBERS):
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS, on_delivery=acked)
        # Some 3,000 a second, so that there is something to kill.
        producer.poll(0.02 if number % 60 == 0 else 0)
    assert producer.flush(LIMIT) == 0 and not failures, failures


class Copier:
    def __init__(self, source, target):
        self.target = target
        self.producer = Producer({**SERVER, "transactional.id": unique("copier")})
        insist(self.producer.init_transactions, LIMIT)
        self.consumer = Consumer({
            **SERVER, "group.id": unique("copiers"), "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "isolation.level": "read_committed"})
        self.consumer.subscribe([source])

    def round(self, number):
        """Copies what is there; how much that was."""
        messages = [m for m in self.consumer.consume(100, 0.5) if not m.error()]
        if not messages:
            return 0
        try:
            self.producer.begin_transaction()
            for message in messages:
                self.producer.produce(self.target, message.value())
            insist(self.producer.send_offsets_to_transaction,
                   self.consumer.position(self.consumer.assignment()),
                   self.consumer.consumer_group_metadata(), LIMIT)
            if number % 5 == 0:
                return self.back()
            insist(self.producer.commit_transaction, LIMIT)
            return len(messages)
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            return self.back()

    def back(self):
        """As if the round had not been."""
        insist(self.producer.abort_transaction, LIMIT)
        for partition in insist(self.consumer.committed, self.consumer.assignment(), LIMIT):
            # -1001: nothing was committed yet.
            partition.offset = max(partition.offset, 0)
            self.consumer.seek(partition)
        return 0


def read(topic):
    reader = Consumer({**SERVER, "group.id": "nobody", "enable.partition.eof": True,
                       "isolation.level": "read_committed"})
    reader.assign([TopicPartition(topic, 0, 0)])
    numbers = []
    while True:
        message = reader.poll(LIMIT)
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            reader.close()
            return numbers
        numbers.append(int(message.value()))


def main():
    admin = AdminClient(SERVER)
    source, target = unique("source"), unique("target")
    topics = [NewTopic(source, PARTITIONS, 1), NewTopic(target, 1, 1)]
    for created in admin.create_topics(topics).values():
        created.result(LIMIT)
    writer = threading.Thread(target=write, args=[source])
    writer.start()
    copier = Copier(source, target)
    copied, rounds, end = 0, 0, time.monotonic() + 3 * LIMIT
    while copied < NUMBERS:
        assert time.monotonic() < end, f"{copied} of {NUMBERS} are copied"
        rounds += 1
        more = copier.round(rounds)
        if more:
            copied += more
            print(f"copied {copied}", flush=True)
    writer.join()
    numbers = read(target)
    assert sorted(numbers) == list(range(NUMBERS)), f"{len(numbers)} of {NUMBERS}"
    for partition in range(PARTITIONS):
        mine = [number for number in numbers if number % PARTITIONS == partition]
        assert mine == sorted(mine), "in order"
    print(f"all {NUMBERS} once")


if __name__ == "__main__":
    main()
