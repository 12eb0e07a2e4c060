// go-gomemcache.go HOST:PORT[:WEIGHT],... ID...
//
// Read sessions with gomemcache.  Its own selector takes the key's hash modulo
// the number of servers; go-ketama.go has another one.  With one server there is
// no need of that: memcache.New(server).
//
// Copyright (c) 2026, echocache developers

package main

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"
)

// Here comes SELECT echocache_get_session(id).
func fromDatabase(id string) map[string]interface{} {
	return map[string]interface{}{"from": "database"}
}

func main() {
	servers, err := newKetama(strings.Split(os.Args[1], ","))
	if err != nil {
		panic(err)
	}
	cache := memcache.NewFromSelector(servers)

	for _, id := range os.Args[2:] {
		var session map[string]interface{}
		item, err := cache.Get("session:" + id)
		if err == nil {
			err = json.Unmarshal(item.Value, &session)
		}
		if err != nil || session == nil { // an error is as good as a miss
			session = fromDatabase(id)
		}

		var text interface{}
		if item != nil {
			text = string(item.Value)
		}
		json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"id": id, "text": text, "session": session})
	}
}
