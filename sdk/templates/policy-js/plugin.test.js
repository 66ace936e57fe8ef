import assert from 'node:assert/strict';
import { test } from 'node:test';

import { decisions } from './plugin.js';

const context = (settings) => ({ nowMs: 0n, timeZone: 'UTC', settings: JSON.stringify(settings), vm: undefined });

// The backup of `place` days ago.
const point = (place) => ({
  id: `backup-${place}`,
  createdMs: BigInt(-place) * 86_400_000n,
  ageDays: place,
  rank: { last: place, hourly: place, daily: place, weekly: 0, monthly: 0, yearly: 0 },
  backupType: 'incremental',
  verified: false,
  damaged: false,
  pinned: false,
  sizeBytes: 1n,
});

const kept = (settings, places) =>
  decisions
    .retain(places.map(point), context(settings))
    .filter((verdict) => verdict.reason !== undefined)
    .map((verdict) => verdict.id);

test('the newest and the young stay', () => {
  assert.deepEqual(kept({ newest: 2, days: 0 }, [0, 1, 2, 8]), ['backup-0', 'backup-1']);
  assert.deepEqual(kept({ newest: 1, days: 3 }, [0, 1, 2, 3]), ['backup-0', 'backup-1', 'backup-2']);
  assert.deepEqual(kept({}, [0, 6, 13, 14, 300]), ['backup-0', 'backup-6', 'backup-13']);
});

test('a setting that does not exist is refused', () => {
  assert.throws(
    () => decisions.retain([], context({ dyas: 30 })),
    (error) => error.payload.kind.tag === 'config' && error.payload.message.includes('dyas'),
  );
});

test('a chain ends with a full', () => {
  const after = (chainLength) => decisions.plan({}, { chainLength }, context({ longest_chain: 3 })).kind;
  assert.deepEqual([0, 1, 2, 3].map(after), ['full', 'incremental', 'incremental', 'full']);
  assert.ok(decisions.select({ tags: ['backup'] }, context({})).protect);
  assert.ok(!decisions.select({ tags: ['backup'] }, context({ tag: 'gold' })).protect);
});
