/*
 * node-memcached.js HOST:PORT[:WEIGHT],... ID...
 *     Read sessions with the npm package memcached.
 *
 * Copyright (c) 2026, echocache developers
 */
'use strict';

const { promisify } = require('util');
const Memcached = require('memcached');

// By default it waits for seconds for a server that is down, and gives it up for hours.
const OPTIONS = { timeout: 500, retries: 0, retry: 1000, failures: 1e6 };

// Here comes SELECT echocache_get_session(id).
const fromDatabase = async (id) => ({ from: 'database' });

const [list, ...ids] = process.argv.slice(2);
const weights = Object.fromEntries(list.split(',').map((server) => {
	const [host, port, weight] = server.split(':');
	return [`${host}:${port}`, Number(weight ?? 1)];
}));

async function main() {
	const cache = new Memcached(weights, OPTIONS);
	const get = promisify(cache.get.bind(cache));

	for (const id of ids) {
		const text = await get('session:' + id).catch(() => null); // an error is as good as a miss
		const session = JSON.parse(text ?? null) ?? await fromDatabase(id);
		console.log(JSON.stringify({ id, text: text ?? null, session }));
	}
}

// Its timers would keep the program running while a server is down.
main().then(() => process.stdout.write('', () => process.exit()));
