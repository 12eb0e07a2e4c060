<?php
/*
 * php-memcached.php HOST:PORT[:WEIGHT],... ID...
 *     Read sessions with the extension memcached (not memcache).
 *
 * Copyright (c) 2026, echocache developers
 */

/* Here comes SELECT echocache_get_session($id). */
function from_database($id)
{
	return ['from' => 'database'];
}

$servers = array_map(function ($server) {
	[$host, $port, $weight] = explode(':', "$server:1");
	return [$host, (int) $port, (int) $weight];
}, explode(',', $argv[1]));
$cache = new Memcached();
$cache->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);
$cache->addServers($servers);

foreach (array_slice($argv, 2) as $id) {
	$text = $cache->get("session:$id");
	$session = json_decode($text ?: 'null') ?? from_database($id);
	echo json_encode(['id' => $id, 'text' => $text === false ? null : $text, 'session' => $session]), "\n";
}
