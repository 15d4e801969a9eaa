// Uses the npm client etcd3 as its users do. The last line it prints is "ok"; anything else is a failure.
'use strict';
const assert = require('node:assert');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

const hosts = process.argv[2];
const client = new Etcd3({ hosts });
const once = (emitter, event) => new Promise(resolve => emitter.once(event, resolve));

async function keys() {
  await client.put('npm/a').value('1');
  await client.put('npm/b').value('2');
  assert.strictEqual(await client.get('npm/a').string(), '1');
  assert.deepStrictEqual(await client.getAll().prefix('npm/').strings(), { 'npm/a': '1', 'npm/b': '2' });
  const answer = await client.if('npm/a', 'Value', '==', '1').then(client.put('npm/a').value('3')).else(client.get('npm/a')).commit();
  assert.strictEqual(answer.succeeded, true);
  const inside = client.namespace('npm/');
  assert.strictEqual(await inside.get('a').string(), '3');
  assert.strictEqual((await client.delete().prefix('npm/')).deleted, '2');
}

async function locks() {
  const first = await client.lock('npm-lock').ttl(10).acquire();
  await assert.rejects(client.lock('npm-lock').ttl(10).acquire(), EtcdLockFailedError);
  await first.release();
  let inside = 0;
  await Promise.all([...Array(4)].map(async () => {
    for (let tries = 0; ; tries++) {
      try {
        return await client.lock('npm-lock').ttl(10).do(async () => { inside++; assert.strictEqual(inside, 1); inside--; });
      } catch (err) {
        if (!(err instanceof EtcdLockFailedError) || tries > 500) throw err;
        await new Promise(resolve => setTimeout(resolve, 10));
      }
    }
  }));
}

async function leases() {
  const lease = client.lease(10);
  await lease.put('npm-lease').value('x');
  const kept = once(lease, 'keepaliveSucceeded');
  await lease.keepaliveOnce();
  await kept;
  await lease.revoke();
  assert.strictEqual(await client.get('npm-lease').string(), null);
}

async function watches() {
  const watcher = await client.watch().prefix('npm-watch/').withPreviousKV().create();
  const put = once(watcher, 'put');
  await client.put('npm-watch/a').value('1');
  const event = await put;
  assert.strictEqual(event.key.toString(), 'npm-watch/a');
  assert.strictEqual(event.value.toString(), '1');
  const gone = once(watcher, 'delete');
  await client.delete().key('npm-watch/a');
  assert.strictEqual((await gone).key.toString(), 'npm-watch/a');
  await watcher.cancel();
}

async function elections() {
  const one = client.election('npm-election', 10);
  const two = client.election('npm-election', 10);
  const first = one.campaign('one');
  await once(first, 'elected');
  assert.strictEqual(await one.leader(), 'one');
  const observer = await two.observe();
  const second = two.campaign('two');
  const elected = once(second, 'elected');
  await first.resign();
  await elected;
  assert.strictEqual(await two.leader(), 'two');
  await second.resign();
  await observer.cancel();
}

async function refusals() {
  await assert.rejects(client.put('').value('x'), /key is not provided/);
  await assert.rejects(client.get("x").revision(1 << 30).exec(), /future revision/);
}

(async () => {
  for (const part of [keys, locks, leases, watches, elections, refusals]) {
    console.log(part.name);
    await part();
  }
  client.close();
  console.log('ok');
  process.exit(0);
})().catch(err => {
  console.log(err);
  process.exit(1);
});
