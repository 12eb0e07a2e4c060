// Weighted ketama as libmemcached computes it, as a ServerSelector of gomemcache.
//
// Copyright (c) 2026, echocache developers

package main

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
)

type point struct {
	hash   uint32
	server net.Addr
}

type ketama struct {
	servers []net.Addr
	ring    []point
}

// newKetama takes servers as HOST:PORT[:WEIGHT].
func newKetama(list []string) (*ketama, error) {
	var k ketama
	var names []string
	var weights []int
	total := 0
	for _, entry := range list {
		part := append(strings.Split(entry, ":"), "1")
		name := part[0] + ":" + part[1]
		addr, err := net.ResolveTCPAddr("tcp", name)
		if err != nil {
			return nil, err
		}
		weight, err := strconv.Atoi(part[2])
		if err != nil {
			return nil, err
		}
		k.servers = append(k.servers, addr)
		names = append(names, strings.TrimSuffix(name, ":11211"))
		weights = append(weights, weight)
		total += weight
	}
	for i, name := range names {
		for n := 0; n < 40*len(names)*weights[i]/total; n++ {
			sum := md5.Sum([]byte(fmt.Sprintf("%s-%d", name, n)))
			for at := 0; at < len(sum); at += 4 {
				k.ring = append(k.ring, point{binary.LittleEndian.Uint32(sum[at:]), k.servers[i]})
			}
		}
	}
	sort.Slice(k.ring, func(a, b int) bool { return k.ring[a].hash < k.ring[b].hash })
	return &k, nil
}

// PickServer and Each are what gomemcache asks for.
func (k *ketama) PickServer(key string) (net.Addr, error) {
	sum := md5.Sum([]byte(key))
	hash := binary.LittleEndian.Uint32(sum[:])
	at := sort.Search(len(k.ring), func(i int) bool { return k.ring[i].hash >= hash })
	return k.ring[at%len(k.ring)].server, nil
}

func (k *ketama) Each(f func(net.Addr) error) error {
	for _, server := range k.servers {
		if err := f(server); err != nil {
			return err
		}
	}
	return nil
}
