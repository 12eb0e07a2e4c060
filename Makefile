# echocache: PGXS build.  `make`, `make install`, `make installcheck`.
# The tests that need a memcached of their own, and everything at once: `bash test/run.sh`.

EXTENSION = echocache
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" echocache.control)
MODULE_big = echocache
DATA = $(wildcard sql/echocache--*.sql)
PGFILEDESC = "echocache - keeps memcached coherent with tables"

OBJS = \
	src/attachments/affected.o \
	src/attachments/attach.o \
	src/attachments/attachment.o \
	src/attachments/catalog.o \
	src/attachments/check.o \
	src/attachments/column.o \
	src/attachments/configuration.o \
	src/attachments/ddl.o \
	src/attachments/dependent.o \
	src/attachments/detach.o \
	src/attachments/filter.o \
	src/attachments/object.o \
	src/attachments/rename.o \
	src/attachments/slot.o \
	src/attachments/triggers.o \
	src/commit/commit.o \
	src/commit/invalidate.o \
	src/commit/locks.o \
	src/commit/pending.o \
	src/commit/running.o \
	src/commit/trigger.o \
	src/commit/xact.o \
	src/deadline.o \
	src/echocache.o \
	src/guc.o \
	src/net/auth.o \
	src/net/connection.o \
	src/net/request.o \
	src/net/socket.o \
	src/net/tls.o \
	src/protocol/jsonscan.o \
	src/protocol/key.o \
	src/protocol/reply.o \
	src/protocol/wire.o \
	src/read/act.o \
	src/read/build.o \
	src/read/encoding.o \
	src/read/fetch.o \
	src/read/fill.o \
	src/read/hit.o \
	src/read/member.o \
	src/read/owner.o \
	src/read/permission.o \
	src/read/read.o \
	src/read/render.o \
	src/read/usercode.o \
	src/servers/exchange.o \
	src/servers/outbox.o \
	src/servers/placement.o \
	src/servers/purge.o \
	src/servers/state.o \
	src/servers/topology.o \
	src/shmem.o \
	src/sql/admin.o \
	src/sql/batch.o \
	src/sql/kv.o \
	src/sql/kv_keys.o \
	src/sql/kv_servers.o \
	src/sql/sql_read.o \
	src/sql/stats.o \
	src/sql/support.o \
	src/sql/verify.o \
	src/sql/verify_keys.o \
	src/sql/warm.o \
	src/waitpoint.o \
	src/worker/database.o \
	src/worker/launcher.o \
	src/worker/recovery.o \
	src/worker/worker.o

PG_CPPFLAGS = -I$(srcdir)/src
SHLIB_LINK = -lmemcached -lssl -lcrypto

# `make WAIT_POINTS=1`: the named wait points of the tests (see src/waitpoint.h).
ifdef WAIT_POINTS
PG_CPPFLAGS += -DECHOCACHE_WAIT_POINTS
endif
# `make STRICT=1`: as CI builds.
ifdef STRICT
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
endif

REGRESS = $(sort $(notdir $(basename $(wildcard test/sql/*.sql))))
REGRESS_OPTS = --inputdir=test --outputdir=. --encoding=UTF8
ISOLATION = $(sort $(notdir $(basename $(wildcard test/isolation/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test/isolation --outputdir=output_iso
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS does not track headers.
$(OBJS) $(OBJS:.o=.bc): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)
