// @platformatic/kafka on Levee: it takes the newest version of each request.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import zlib from 'node:zlib';
import {
  Admin, Consumer, FetchIsolationLevels, ProduceAcks, Producer, stringDeserializers,
  stringSerializers,
} from '@platformatic/kafka';
import common from './common.js';

const { ADDRESS, eventually, unique } = common;
const base = { clientId: 'tests', bootstrapBrokers: [ADDRESS], autocreateTopics: false };
const admin = new Admin(base);
const open = [admin];

after(async () => {
  for (const client of open.reverse()) await client.close(true);
});

async function create(name, partitions = 1, configs = []) {
  const topic = unique(name);
  const [created] = await admin.createTopics({ topics: [topic], partitions, replicas: 1, configs });
  assert.equal(created.name, topic);
  return topic;
}

function producer(options = {}) {
  const client = new Producer({ ...base, serializers: stringSerializers, ...options });
  open.push(client);
  return client;
}

// Acknowledged when durable: this client's own word is the leader's.
const send = (client, messages) => client.send({ messages, acks: ProduceAcks.ALL });

function consumer(groupId, options = {}) {
  const client = new Consumer({
    ...base, groupId, deserializers: stringDeserializers, maxWaitTime: 200, ...options,
  });
  open.push(client);
  return client;
}

// Notes what comes until it is closed.
async function member(topic, groupId, options = {}, consume = {}) {
  const client = consumer(groupId, options);
  const stream = await client.consume({ topics: [topic], mode: 'earliest', ...consume });
  const it = { client, stream, messages: [] };
  stream.on('data', (message) => it.messages.push(message));
  // A fetch that is under way when its client closes is an error of the stream.
  stream.on('error', (error) => {
    if (!it.ends) throw error;
  });
  it.end = async () => {
    it.ends = true;
    await stream.close();
    await client.close(true);
  };
  it.partitions = () => (client.assignments ?? [])
    .filter((assignment) => assignment.topic === topic)
    .flatMap((assignment) => assignment.partitions);
  return it;
}

async function read(topic, count, options) {
  const reader = await member(topic, unique('reader'), options);
  await eventually(`${count} of ${topic} come`, () => reader.messages.length >= count);
  await reader.end();
  return reader.messages;
}

test('records come back as they were, with every codec', async () => {
  const topic = await create('codecs', 1, [{ name: 'retention.ms', value: '-1' }]);
  const expected = [];
  const codecs = ['none', 'gzip', 'snappy', 'lz4'];
  // Node's own, from 22.15 on.
  if ('zstdCompressSync' in zlib) codecs.push('zstd');
  for (const compression of codecs) {
    const client = producer({ idempotent: compression === 'none', compression });
    const messages = Array.from({ length: 100 }, (_, n) => ({
      topic, key: compression, value: `value ${n} `.repeat(20), headers: { h: `${n}` },
      timestamp: 1_700_000_000_000n + BigInt(n),
    }));
    const { offsets } = await send(client, messages);
    assert.equal(offsets[0].offset, BigInt(expected.length), compression);
    expected.push(...messages);
  }
  const messages = await read(topic, expected.length);
  messages.forEach((message, n) => {
    assert.equal(message.offset, BigInt(n));
    assert.equal(message.key, expected[n].key);
    assert.equal(message.value, expected[n].value);
    assert.equal(message.headers.get('h'), expected[n].headers.h);
    assert.equal(message.timestamp, expected[n].timestamp);
  });
});

for (const groupProtocol of ['classic', 'consumer']) {
  test(`two members share partitions: ${groupProtocol}`, async () => {
    const topic = await create('share', 4);
    const groupId = unique('group');
    const client = producer();
    const each = (value) =>
      send(client, [0, 1, 2, 3].map((partition) => ({ topic, partition, value })));
    await each('old');
    const options = groupProtocol === 'classic'
      ? { sessionTimeout: 10_000, heartbeatInterval: 500, rebalanceTimeout: 10_000 }
      : { groupProtocol };
    const first = await member(topic, groupId, options, { autocommit: true });
    await eventually('the first reads all', () => first.messages.length === 4);
    const second = await member(topic, groupId, options, { autocommit: true, mode: 'committed' });
    await eventually('each has two', () => first.partitions().length === 2
      && second.partitions().length === 2);
    assert.deepEqual([...first.partitions(), ...second.partitions()].sort(), [0, 1, 2, 3]);
    await each('new');
    const values = () => [...first.messages, ...second.messages].map((m) => m.value);
    await eventually('the new ones come', () =>
      values().filter((value) => value === 'new').length >= 4);
    const listed = (await admin.listGroups({ types: [groupProtocol] })).get(groupId);
    assert.equal(listed.state, 'STABLE');
    await first.end();
    await eventually('the second has all', () => second.partitions().length === 4);
    await second.end();
  });
}

test('transactions', async () => {
  const target = await create('target');
  const client = producer({ transactionalId: unique('id'), idempotent: true });
  for (const commits of [false, true]) {
    const transaction = await client.beginTransaction();
    const messages = [1, 2, 3].map((n) => ({ topic: target, value: `${commits} ${n}` }));
    await transaction.send({ messages });
    await (commits ? transaction.commit() : transaction.abort());
  }
  const values = (messages) => messages.map((message) => message.value);
  const committed = ['true 1', 'true 2', 'true 3'];
  const isolated = (isolationLevel) => ({ isolationLevel });
  assert.deepEqual(values(await read(target, 3, isolated(FetchIsolationLevels.READ_COMMITTED))),
    committed);
  assert.deepEqual(values(await read(target, 6, isolated(FetchIsolationLevels.READ_UNCOMMITTED))),
    ['false 1', 'false 2', 'false 3', ...committed]);
});

test('administration', async () => {
  const topic = await create('admin', 2, [{ name: 'retention.ms', value: '3600000' }]);
  await assert.rejects(admin.createTopics({ topics: [topic], partitions: 1, replicas: 1 }));
  assert.ok((await admin.listTopics()).includes(topic));
  await admin.createPartitions({ topics: [{ name: topic, count: 3, assignments: null }] });
  const client = producer();
  await send(client, Array.from({ length: 10 }, (_, n) => (
    { topic, partition: 0, value: `${n}` })));
  const resource = { resourceType: 2, resourceName: topic, configurationKeys: ['retention.ms'] };
  const [described] = await admin.describeConfigs({ resources: [resource] });
  assert.equal(described.configs[0].value, '3600000');
  const [deleted] = await admin.deleteRecords({
    topics: [{ name: topic, partitions: [{ partition: 0, offset: 4n }] }],
  });
  assert.equal(deleted.partitions[0].lowWatermark, 4n);
  const ends = await consumer(unique('group')).listOffsets({ topics: [topic] });
  assert.deepEqual(ends.get(topic), [10n, 0n, 0n]);
  await admin.deleteTopics({ topics: [topic] });
  assert.ok(!(await admin.listTopics()).includes(topic));
});
