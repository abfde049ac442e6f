// KafkaJS on Levee.
'use strict';

const assert = require('node:assert/strict');
const { after, before, test } = require('node:test');
const { CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require('kafkajs');
const { ADDRESS, eventually, unique } = require('./common.js');

const kafka = new Kafka({ clientId: 'tests', brokers: [ADDRESS], logLevel: logLevel.NOTHING });
const admin = kafka.admin();
const open = [];
// For records whose timestamps are long ago.
const forever = [{ name: 'retention.ms', value: '-1' }];

before(() => admin.connect());
after(async () => {
  await Promise.all(open.map((client) => client.disconnect()));
  await admin.disconnect();
});

async function create(name, numPartitions = 1, configEntries = []) {
  const topic = unique(name);
  const topics = [{ topic, numPartitions, configEntries }];
  assert.equal(await admin.createTopics({ topics }), true);
  return topic;
}

async function producer(config = {}) {
  const client = kafka.producer(config);
  await client.connect();
  open.push(client);
  return client;
}

// A member of a group that notes what it reads and which partitions it has.
async function member(topic, groupId, config = {}) {
  const consumer = kafka.consumer({
    groupId, sessionTimeout: 10_000, heartbeatInterval: 500, maxWaitTimeInMs: 200,
    rebalanceTimeout: 10_000, ...config,
  });
  const it = { consumer, messages: [], partitions: [] };
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    it.partitions = payload.memberAssignment[topic] ?? [];
  });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      it.messages.push({ partition, ...message });
    },
  });
  open.push(consumer);
  return it;
}

async function read(topic, count, config) {
  const reader = await member(topic, unique('reader'), config);
  await eventually(`${count} of ${topic} come`, () => reader.messages.length >= count);
  await reader.consumer.disconnect();
  return reader.messages;
}

test('records come back as they were, plain and gzipped', async () => {
  const topic = await create('records', 1, forever);
  const client = await producer({ idempotent: true, maxInFlightRequests: 1 });
  const expected = [];
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    for (let round = 0; round < 5; round++) {
      const messages = Array.from({ length: 50 }, (_, n) => ({
        key: `k${n}`, value: `value ${round} ${n} `.repeat(20), headers: { h: `${n}` },
        timestamp: `${1_700_000_000_000 + n}`,
      }));
      const [sent] = await client.send({ topic, compression, messages });
      assert.equal(sent.baseOffset, `${expected.length}`);
      expected.push(...messages);
    }
  }
  await client.send({ topic, messages: [{ key: 'gone', value: null }] });
  const messages = await read(topic, expected.length + 1);
  messages.forEach((message, n) => {
    assert.equal(message.offset, `${n}`);
    if (n === expected.length) {
      assert.deepEqual([message.key.toString(), message.value], ['gone', null]);
      return;
    }
    const wanted = expected[n];
    assert.equal(message.key.toString(), wanted.key);
    assert.equal(message.value.toString(), wanted.value);
    assert.equal(message.headers.h.toString(), wanted.headers.h);
    assert.equal(message.timestamp, wanted.timestamp);
  });
});

test('two members share partitions, and one takes over from the other', async () => {
  const topic = await create('share', 4);
  const groupId = unique('group');
  const client = await producer();
  const each = (value) => client.send({
    topic, messages: [0, 1, 2, 3].map((partition) => ({ partition, value })),
  });
  await each('old');
  const first = await member(topic, groupId);
  await eventually('the first reads all', () => first.messages.length === 4);
  assert.deepEqual([...first.partitions].sort(), [0, 1, 2, 3]);
  const second = await member(topic, groupId);
  await eventually('each has two', () => first.partitions.length === 2
    && second.partitions.length === 2);
  assert.deepEqual([...first.partitions, ...second.partitions].sort(), [0, 1, 2, 3]);
  const { groups: [described] } = await admin.describeGroups([groupId]);
  assert.equal(described.state, 'Stable');
  assert.equal(described.members.length, 2);
  await each('new');
  await eventually('the new ones come', () => first.messages.length + second.messages.length === 8);
  assert.deepEqual(second.messages.map((m) => [m.partition, m.value.toString()]).sort(),
    [...second.partitions].sort().map((partition) => [partition, 'new']));
  await first.consumer.disconnect();
  await eventually('the second has all', () => second.partitions.length === 4);
  await each('last');
  await eventually('and reads all', () => second.messages.length === 6);
  await second.consumer.disconnect();
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] });
  assert.deepEqual(partitions.map((p) => p.offset), ['3', '3', '3', '3']);
  assert.equal((await admin.describeGroups([groupId])).groups[0].state, 'Empty');
  await admin.deleteGroups([groupId]);
  assert.ok(!(await admin.listGroups()).groups.some((g) => g.groupId === groupId));
});

test('administration', async () => {
  const topic = await create('admin', 2, forever);
  assert.equal(await admin.createTopics({ topics: [{ topic }] }), false);
  const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }];
  const setting = async (name) => {
    const answer = await admin.describeConfigs({ includeSynonyms: true, resources });
    return answer.resources[0].configEntries.find((entry) => entry.configName === name);
  };
  assert.equal((await setting('retention.ms')).configValue, '-1');
  assert.equal((await setting('retention.ms')).isDefault, false);
  const configEntries = [...forever, { name: 'max.message.bytes', value: '10000' }];
  await admin.alterConfigs({ resources: [{ ...resources[0], configEntries }] });
  assert.equal((await setting('max.message.bytes')).configValue, '10000');
  await assert.rejects(admin.alterConfigs({
    resources: [{ ...resources[0], configEntries: [{ name: 'no.such', value: '1' }] }],
  }), { type: 'INVALID_CONFIG' });
  await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] });
  const { topics: [described] } = await admin.fetchTopicMetadata({ topics: [topic] });
  assert.equal(described.partitions.length, 3);

  const client = await producer();
  for (let n = 0; n < 10; n++) {
    const timestamp = `${1_700_000_000_000 + n * 1000}`;
    await client.send({ topic, messages: [{ partition: 0, value: `${n}`, timestamp }] });
  }
  const [byTime] = (await admin.fetchTopicOffsetsByTimestamp(topic, 1_700_000_003_001))
    .filter((p) => p.partition === 0);
  assert.equal(byTime.offset, '4');
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] });
  const [ends] = (await admin.fetchTopicOffsets(topic)).filter((p) => p.partition === 0);
  assert.deepEqual([ends.low, ends.high], ['4', '10']);
  assert.ok((await admin.listTopics()).includes(topic));
  await admin.deleteTopics({ topics: [topic] });
  assert.ok(!(await admin.listTopics()).includes(topic));
});

test('a message that is too large is refused, and nothing else', async () => {
  const topic = await create('large', 1, [{ name: 'max.message.bytes', value: '10000' }]);
  const client = await producer();
  await assert.rejects(client.send({ topic, messages: [{ value: 'x'.repeat(20_000) }] }),
    { type: 'MESSAGE_TOO_LARGE' });
  const [sent] = await client.send({ topic, messages: [{ value: 'small' }] });
  assert.equal(sent.baseOffset, '0');
});

test('transactions', async () => {
  const [source, target] = [await create('source'), await create('target')];
  const groupId = unique('group');
  const transactionalId = unique('id');
  const config = { transactionalId, idempotent: true, maxInFlightRequests: 1 };
  const client = await producer(config);
  for (const commits of [false, true]) {
    const transaction = await client.transaction();
    const messages = [1, 2, 3].map((n) => ({ value: `${commits} ${n}` }));
    await transaction.send({ topic: target, messages });
    const offset = commits ? '3' : '2';
    await transaction.sendOffsets({
      consumerGroupId: groupId, topics: [{ topic: source, partitions: [{ partition: 0, offset }] }],
    });
    await (commits ? transaction.commit() : transaction.abort());
  }
  const values = (messages) => messages.map((message) => message.value.toString());
  const committed = ['true 1', 'true 2', 'true 3'];
  assert.deepEqual(values(await read(target, 3)), committed);
  assert.deepEqual(values(await read(target, 6, { readUncommitted: true })),
    ['false 1', 'false 2', 'false 3', ...committed]);
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [source] });
  assert.deepEqual(partitions.map((p) => p.offset), ['3']);

  // A second producer of that name: the first is fenced.
  const late = await client.transaction();
  await late.send({ topic: target, messages: [{ value: 'late' }] });
  const second = await producer(config);
  const transaction = await second.transaction();
  await assert.rejects(late.commit(), /epoch|fenced|newer/i);
  await transaction.send({ topic: target, messages: [{ value: 'second' }] });
  await transaction.commit();
  assert.deepEqual(values(await read(target, 4)), [...committed, 'second']);
});
