/*
 * node-memjs.js HOST:PORT[:WEIGHT],... ID...
 *     Read sessions with the npm package memjs.
 *
 * It takes the key's hash modulo the number of servers, and can be told
 * otherwise: here by the npm package hashring, which is ketama.
 *
 * Copyright (c) 2026, echocache developers
 */
'use strict';

const HashRing = require('hashring');
const memjs = require('memjs');

// Here comes SELECT echocache_get_session(id).
const fromDatabase = async (id) => ({ from: 'database' });

const [list, ...ids] = process.argv.slice(2);
const weights = Object.fromEntries(list.split(',').map((server) => {
	const [host, port, weight] = server.split(':');
	return [`${host}:${port}`, Number(weight ?? 1)];
}));

async function main() {
	const servers = Object.keys(weights);
	const ring = new HashRing(weights, 'md5', { compatibility: 'ketama', 'default port': 11211 });
	const cache = memjs.Client.create(servers.join(), { logger: { log() {} } });
	cache.getServer = (key) => servers.indexOf(ring.get(key));

	for (const id of ids) {
		const text = (await cache.get('session:' + id).catch(() => null))?.value; // an error is as good as a miss
		const session = JSON.parse(text ?? null) ?? await fromDatabase(id);
		console.log(JSON.stringify({ id, text: text?.toString() ?? null, session }));
	}
	cache.close();
}

main();
