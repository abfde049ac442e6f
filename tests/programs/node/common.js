// What the tests of all clients share.
'use strict';

const { randomUUID } = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');

const ADDRESS = process.env.LEVEE_KAFKA;
// Longer than anything takes.
const LIMIT_MS = 60_000;

function unique(name) {
  return `${name}-${randomUUID().slice(0, 8)}`;
}

// Asks until the answer is true, and gives it.
async function eventually(what, check) {
  const end = Date.now() + LIMIT_MS;
  for (;;) {
    const answer = await check();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`within ${LIMIT_MS} ms: ${what}`);
    await sleep(50);
  }
}

module.exports = { ADDRESS, eventually, unique };
