# echocache: PGXS build.  `make`, `make install`, `make installcheck` (on a running server), `make dist`,
# `make deb`.
# Every test, on servers that are started for it: `bash test/run.sh`.  More: CONTRIBUTING.md.

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
	src/attachments/changed.o \
	src/attachments/check.o \
	src/attachments/column.o \
	src/attachments/command.o \
	src/attachments/configuration.o \
	src/attachments/ddl.o \
	src/attachments/depend.o \
	src/attachments/dependent.o \
	src/attachments/detach.o \
	src/attachments/filter.o \
	src/attachments/firing.o \
	src/attachments/inherit.o \
	src/attachments/latency.o \
	src/attachments/object.o \
	src/attachments/rename.o \
	src/attachments/slot.o \
	src/attachments/storage.o \
	src/attachments/triggers.o \
	src/attachments/trust.o \
	src/attachments/typewalk.o \
	src/attachments/vacate.o \
	src/commit/commit.o \
	src/commit/handover.o \
	src/commit/invalidate.o \
	src/commit/locks.o \
	src/commit/pending.o \
	src/commit/running.o \
	src/commit/store.o \
	src/commit/trigger.o \
	src/commit/xact.o \
	src/deadline.o \
	src/echocache.o \
	src/guc.o \
	src/net/answer.o \
	src/net/auth.o \
	src/net/connection.o \
	src/net/dialect.o \
	src/net/failure.o \
	src/net/probe.o \
	src/net/request.o \
	src/net/socket.o \
	src/net/tls.o \
	src/password.o \
	src/protocol/jsonscan.o \
	src/protocol/key.o \
	src/protocol/leaseline.o \
	src/protocol/reply.o \
	src/protocol/wire.o \
	src/read/act.o \
	src/read/blocks.o \
	src/read/build.o \
	src/read/encoding.o \
	src/read/entries.o \
	src/read/fetch.o \
	src/read/fill.o \
	src/read/hit.o \
	src/read/local.o \
	src/read/member.o \
	src/read/owner.o \
	src/read/permission.o \
	src/read/promote.o \
	src/read/query.o \
	src/read/read.o \
	src/read/render.o \
	src/read/shape.o \
	src/read/turn.o \
	src/read/usercode.o \
	src/servers/address.o \
	src/servers/exchange.o \
	src/servers/lease.o \
	src/servers/list.o \
	src/servers/outbox.o \
	src/servers/placement.o \
	src/servers/purge.o \
	src/servers/round.o \
	src/servers/state.o \
	src/servers/topology.o \
	src/shmem.o \
	src/sql/admin.o \
	src/sql/batch.o \
	src/sql/judge.o \
	src/sql/kv.o \
	src/sql/kv_keys.o \
	src/sql/kv_servers.o \
	src/sql/sample.o \
	src/sql/sql_read.o \
	src/sql/stats.o \
	src/sql/support.o \
	src/sql/verify.o \
	src/sql/verify_keys.o \
	src/sql/warm.o \
	src/version.o \
	src/waitevent.o \
	src/waitpoint.o \
	src/worker/auditor.o \
	src/worker/builder.o \
	src/worker/database.o \
	src/worker/helper.o \
	src/worker/launcher.o \
	src/worker/recovery.o \
	src/worker/resolver.o \
	src/worker/session.o \
	src/worker/waiting.o \
	src/worker/worker.o

PG_CPPFLAGS = -I$(srcdir)/src -DECHOCACHE_VERSION='"$(EXTVERSION)"'
SHLIB_LINK = -lmemcached -lssl -lcrypto

# `make WAIT_POINTS=1`: the named wait points of the tests (see src/waitpoint.h).
ifdef WAIT_POINTS
PG_CPPFLAGS += -DECHOCACHE_WAIT_POINTS
endif
# No bitcode.  Functions that wait for a network gain nothing from being inlined by JIT, and a server
# that runs the library of before an upgrade would inline code of the new one, whose shared memory
# is laid out otherwise.
override with_llvm = no
# `make STRICT=1`: as CI builds.
ifdef STRICT
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
endif

REGRESS = $(sort $(notdir $(basename $(wildcard test/sql/*.sql))))
REGRESS_OPTS = --inputdir=test --outputdir=. --encoding=UTF8
ISOLATION_OPTS = --inputdir=test/isolation --outputdir=output_iso
PROVE_TESTS = test/t/*.pl

# `make installcheck` runs the regression tests on a running server, and the isolation tests if
# that was built with wait points; `make installcheck TAP_TESTS=1` the TAP tests as well, which
# start servers of their own.  On a temporary instance, as test/run.sh has it, nothing is asked.
PG_CONFIG ?= pg_config
# The specs of the second tier (LOCAL=1) are for a server that has one, all others for one without.
SPECS = $(notdir $(basename $(wildcard test/isolation/specs/*.spec)))
ISOLATION = $(sort $(if $(LOCAL),$(filter local_%,$(SPECS)),$(filter-out local_%,$(SPECS))))
ifneq (,$(filter installcheck,$(MAKECMDGOALS)))
ifeq (,$(findstring --temp-instance,$(EXTRA_REGRESS_OPTS)))
READY = PG_CONFIG='$(PG_CONFIG)' EXTRA_REGRESS_OPTS='$(EXTRA_REGRESS_OPTS)' bash test/installcheck.sh
REGRESS_PREP = installcheck-ready
ISOLATION := $(if $(shell $(READY) wait-points),$(ISOLATION))
endif
endif
# Each of them needs what "prepare" does.
ifneq (,$(strip $(ISOLATION)))
override ISOLATION := prepare $(filter-out prepare,$(ISOLATION))
endif

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# DOCS would put our pages into one folder with those of all extensions, where their names
# (clients.md, security.md) are anybody's.  They get a folder of their own, laid out as here, so
# that their links hold.
DOC_PAGES = README.md CHANGELOG.md LICENSE $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/doc/*.md \
	$(srcdir)/doc/*.png $(srcdir)/monitoring/*.* $(srcdir)/monitoring/consoles/*))
docpagesdir = $(DESTDIR)$(docdir)/$(docmoduledir)/echocache

install: install-doc-pages
install-doc-pages:
	$(MKDIR_P) '$(docpagesdir)/doc' '$(docpagesdir)/monitoring/consoles'
	for page in $(DOC_PAGES); do \
		$(INSTALL_DATA) $(srcdir)/$$page '$(docpagesdir)'/$$page || exit 1; \
	done

uninstall: uninstall-doc-pages
uninstall-doc-pages:
	rm -rf '$(docpagesdir)'

.PHONY: install-doc-pages uninstall-doc-pages

# PGXS does not track headers.
src/version.o: $(srcdir)/echocache.control
$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

.PHONY: installcheck-ready
installcheck-ready:
	$(if $(TAP_TESTS),@$(READY) tap)
	$(if $(strip $(REGRESS)$(ISOLATION)),@$(READY) $(if $(strip $(ISOLATION)),isolation))

# PGXN's archive of what is committed.
DISTVERSION = $(shell perl -MJSON::PP -0777 -ne 'print decode_json($$_)->{version}' META.json)
DISTNAME = $(EXTENSION)-$(DISTVERSION)

.PHONY: dist distcheck
dist:
	@case '$(DISTVERSION)' in $(EXTVERSION) | $(EXTVERSION).*) ;; *) echo 'META.json has version "$(DISTVERSION)", $(EXTENSION).control "$(EXTVERSION)"' >&2; exit 1 ;; esac
	@test -z "$$(git status --porcelain)" || echo 'warning: what is not committed is not in $(DISTNAME).zip' >&2
	git archive --format=zip --prefix=$(DISTNAME)/ -o $(DISTNAME).zip HEAD

# It builds and installs, and has what it says.
distcheck: dist
	PG_CONFIG='$(PG_CONFIG)' bash test/distcheck.sh $(DISTNAME).zip

# Debian packages for each PostgreSQL that is installed with its headers, into the folder packages.
.PHONY: deb
deb:
	bash packaging/deb.sh

# The names of our types, for pgindent.
.PHONY: typedefs.list
typedefs.list:
	perl test/typedefs.pl $(wildcard src/*.[ch] src/*/*.[ch] test/*/*.[ch]) >$@
