#!/usr/bin/ruby
#
# ruby-dalli.rb HOST:PORT[:WEIGHT],... ID...
#     Read sessions with dalli.
#
# Copyright (c) 2026, echocache developers

require 'dalli'
require 'json'
require 'logger'

Dalli.logger = Logger.new(nil)

# Here comes SELECT echocache_get_session(id).
def from_database(id) = { from: 'database' }

servers = ARGV.shift.split(',')
cache = Dalli::Client.new(servers)

ARGV.each do |id|
  text = cache.get("session:#{id}") rescue nil # an error is as good as a miss
  session = (text && JSON.parse(text)) || from_database(id)
  puts JSON.generate({ id: id, text: text&.dup&.force_encoding('UTF-8'), session: session })
end
