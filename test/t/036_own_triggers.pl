# Code that runs while a statement changes rows, before our triggers have fired for them: the
# user's triggers, RETURNING, data-modifying CTEs, cascades.  What it reads through the cache
# is what SQL sees.  And code that runs when our part of a commit is over: another extension
# that writes to an attached table then does not get past the cache.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "log_statement = none\nmax_prepared_transactions = 5\n");
my $s = session($node, sql => q{CREATE EXTENSION echocache;
	CREATE TABLE account (id int PRIMARY KEY);
	CREATE TABLE session (id int PRIMARY KEY, account int REFERENCES account ON DELETE CASCADE, title text);
	CREATE TABLE message (id serial, session_id int, body text);
	CREATE FUNCTION made(s session) RETURNS json STABLE LANGUAGE sql AS
		$$ SELECT json_build_object('id', s.id, 'title', s.title, 'messages', (SELECT json_agg(m.body ORDER BY m.id) FROM public.message m WHERE m.session_id = s.id)) $$;
	CREATE TABLE parted (id int, part int, title text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
	CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1);
	CREATE TABLE part_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY LIST (id);
	CREATE TABLE part_2_rest PARTITION OF part_2 DEFAULT;
	CREATE UNIQUE INDEX ON part_1 (id);
	CREATE TABLE plain (id int PRIMARY KEY, title text);
	CREATE TABLE log (t text);
	SELECT echocache_attach('session', document => 'made'), echocache_attach_dependent('message', 'session_id'), echocache_attach('plain', 'plain');
	INSERT INTO account SELECT generate_series(1, 9);
	INSERT INTO session SELECT g, g, 's' || g FROM generate_series(1, 9) g;
	INSERT INTO message (session_id, body) SELECT g, 'm' || g FROM generate_series(1, 9) g;
	INSERT INTO plain SELECT g, 'p' || g FROM generate_series(1, 9) g});
wait_state($s, 'UP');

sub counted
{
	my ($what, $name) = @_;

	return $s->run("SELECT $what FROM echocache_stats WHERE name = '$name'");
}

# All documents are cached.
sub warm
{
	wait_for('all documents to be cached', sub {
		$s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session)), echocache_get_many('plain', ARRAY(SELECT id FROM plain))});
		return !grep { ($memcached->get($_) // 'null') eq 'null' }
		  split /\n/, $s->run(q{SELECT 'session:' || id FROM session UNION ALL SELECT 'plain:' || id FROM plain});
	});
	return;
}

# What the cache and what SQL says of documents 1 to 9, at once; into the log, where they differ.
$s->run(q{
	CREATE FUNCTION look(place text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
	DECLARE
		i int;
		cached text;
		sql text;
	BEGIN
		FOR i IN 1 .. 9 LOOP
			cached := coalesce(echocache_get_session(i)::text, 'none');
			sql := coalesce((SELECT made(s)::text FROM session s WHERE s.id = i), 'none');
			IF cached <> sql THEN INSERT INTO log VALUES (place || ': ' || cached || ', not ' || sql); END IF;
			cached := coalesce(echocache_get('plain', i)::text, 'none');
			sql := coalesce((SELECT row_to_json(p)::text FROM plain p WHERE p.id = i), 'none');
			IF cached <> sql THEN INSERT INTO log VALUES (place || ': ' || cached || ', not ' || sql); END IF;
		END LOOP;
		INSERT INTO log VALUES ('looked');
	END $$;
	CREATE FUNCTION looking() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM look(TG_NAME || ' ' || TG_WHEN || ' ' || TG_OP);
		RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
	END $$});

# Test: the statements look, at least so often, and everywhere the cache says what SQL says.
sub agrees
{
	my ($least, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	warm();
	$s->run('TRUNCATE log');
	$s->run("BEGIN; $sql; COMMIT");
	is($s->run(q{SELECT string_agg(t, E'\n') FROM log WHERE t <> 'looked'}), '', $name);
	cmp_ok($s->run(q{SELECT count(*) FROM log WHERE t = 'looked'}), '>=', $least, 'it was looked at');
	return;
}

#
# RETURNING and CTEs, without any trigger.
#
agrees(2, q{UPDATE plain SET title = title || 'r' WHERE id < 3 RETURNING look('RETURNING')}, 'RETURNING of an UPDATE');
agrees(1, q{INSERT INTO plain VALUES (10, 'new') RETURNING look('RETURNING')}, 'of an INSERT');
agrees(1, q{DELETE FROM plain WHERE id = 9 RETURNING look('RETURNING')}, 'of a DELETE');
agrees(1, q{INSERT INTO plain VALUES (8, 'x') ON CONFLICT (id) DO UPDATE SET title = 'upserted' RETURNING look('RETURNING')}, 'of an upsert');
agrees(2, q{WITH u AS (UPDATE plain SET title = title || 'c' WHERE id < 3 RETURNING id) SELECT look('CTE') FROM u}, 'a data-modifying CTE');
agrees(2, q{UPDATE message SET body = body || 'r' WHERE session_id < 3 RETURNING look('dependent')}, 'RETURNING of a dependent table');
agrees(1, q{DO $$ DECLARE x text; BEGIN UPDATE plain SET title = title || 'd' WHERE id = 1 RETURNING look('DO')::text INTO x; PERFORM look('after'); END $$}, 'in a block');
agrees(1, q{CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS $$ UPDATE plain SET title = title || 'f' WHERE id = 2 RETURNING look('SQL function') $$; SELECT pg_temp.f(); DROP FUNCTION pg_temp.f()}, 'in a SQL function');
if ($node->pg_version >= 17)
{
	agrees(1, q{MERGE INTO plain p USING (VALUES (1)) v(i) ON p.id = v.i WHEN MATCHED THEN UPDATE SET title = 'merged' RETURNING look('MERGE')}, 'MERGE');
}

#
# Triggers before and behind ours, on all tables.
#
for my $table (qw(session message plain))
{
	$s->run("CREATE TRIGGER a_before BEFORE INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION looking();
		CREATE TRIGGER a_first AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION looking();
		CREATE TRIGGER z_last AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION looking();
		CREATE TRIGGER a_statement AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH STATEMENT EXECUTE FUNCTION looking();
		CREATE CONSTRAINT TRIGGER a_deferred AFTER INSERT OR UPDATE OR DELETE ON $table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION looking()");
}
agrees(17, q{UPDATE session SET title = title || 't' WHERE id < 5}, 'triggers on an attached table: UPDATE of several rows');
agrees(9, q{INSERT INTO session VALUES (11, 1, 'new'), (12, 2, 'new')}, 'INSERT');
agrees(9, q{DELETE FROM session WHERE id IN (1, 11)}, 'DELETE');
agrees(9, q{UPDATE message SET body = body || 't' WHERE session_id IN (3, 4)}, 'triggers on a dependent table: UPDATE');
agrees(9, q{UPDATE message SET session_id = 5 WHERE session_id IN (3, 4)}, 'rows that move to another document');
agrees(5, q{DELETE FROM account WHERE id = 2}, 'a foreign key that cascades');
agrees(9, q{INSERT INTO plain SELECT g, 'again' FROM generate_series(20, 21) g}, 'triggers on a plain one: INSERT');
agrees(9, q{UPDATE plain SET id = id + 100 WHERE id IN (5, 6)}, 'keys that change');
agrees(9, q{DO $$ BEGIN FOR i IN 1 .. 2 LOOP UPDATE plain SET title = title || 'x' WHERE id = i; END LOOP; END $$}, 'in a block');
agrees(9, q{SAVEPOINT a; UPDATE plain SET title = 'x'; ROLLBACK TO a; UPDATE plain SET title = title || 'y' WHERE id < 3}, 'after a savepoint');
$s->run(q{COPY (SELECT g, 'copied' FROM generate_series(30, 31) g) TO '/tmp/echocache.036.} . $$ . q{'});
agrees(9, q{COPY plain FROM '/tmp/echocache.036.} . $$ . q{'}, 'COPY');
unlink "/tmp/echocache.036.$$";

# A statement of which our triggers see nothing yet fires others that change more.
$s->run(q{CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE plain SET title = title || 'm' WHERE id = NEW.id + 1 AND NEW.id < 4;
		RETURN NULL;
	END $$;
	CREATE TRIGGER b_more AFTER UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION more()});
agrees(13, q{UPDATE plain SET title = title || 'n' WHERE id IN (1, 2)}, 'statements in triggers');
$s->run('DROP TRIGGER b_more ON plain');

# Partitions: a row's events are its partition's.
$s->run(q{DROP TRIGGER a_before ON plain; DROP TRIGGER a_first ON plain; DROP TRIGGER z_last ON plain; DROP TRIGGER a_statement ON plain; DROP TRIGGER a_deferred ON plain;
	SELECT echocache_detach('plain');
	ALTER TABLE plain RENAME TO plain_old;
	CREATE TABLE plain (id int PRIMARY KEY, title text) PARTITION BY RANGE (id);
	CREATE TABLE plain_1 PARTITION OF plain FOR VALUES FROM (1) TO (5);
	CREATE TABLE plain_2 PARTITION OF plain FOR VALUES FROM (5) TO (1000) PARTITION BY RANGE (id);
	CREATE TABLE plain_2_1 PARTITION OF plain_2 FOR VALUES FROM (5) TO (1000);
	INSERT INTO plain SELECT g, 'p' || g FROM generate_series(1, 9) g;
	SELECT echocache_attach('plain', 'plain');
	CREATE TRIGGER a_first AFTER INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION looking()});
agrees(4, q{UPDATE plain SET title = title || 't' WHERE id < 5}, 'a partition, through the root');
agrees(5, q{UPDATE plain SET title = title || 't' WHERE id >= 5}, 'one further down');
agrees(5, q{UPDATE plain_2_1 SET title = title || 'u'}, 'by its own name');
agrees(2, q{UPDATE plain SET id = 104 WHERE id = 4}, 'a row that moves to another partition');

#
# What is not concerned is read from the cache as ever.
#
$s->run(q{DROP TRIGGER a_first ON plain; DROP TRIGGER a_deferred ON session; DROP TRIGGER a_deferred ON message; SELECT echocache_stats_reset()});
warm();
$s->run(q{CREATE FUNCTION read_plain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM echocache_get('plain', 1); RETURN NULL; END $$;
	CREATE TABLE other (id int); CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION read_plain()});

# Test: the statements read so many documents of "plain" from the cache, and nothing else.
sub hits
{
	my ($n, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	warm();
	$s->run('SELECT echocache_stats_reset()');
	$s->attempt($_) for split /;; /, $sql;
	is(counted(q{hits || ' ' || bypass_own_change}, 'plain'), $n, $name);
	return;
}

hits('3 0', q{INSERT INTO other SELECT generate_series(1, 3)}, 'a trigger on another table has hits');
hits('2 0', q{INSERT INTO log SELECT echocache_get('plain', g) FROM generate_series(1, 2) g}, 'so has an INSERT into another');
hits('1 1', q{BEGIN;; UPDATE plain SET title = title || 'z' WHERE id = 2;; SELECT echocache_get('plain', 1), echocache_get('plain', 2);; COMMIT},
	'after the statement the other documents are hits');
hits('1 0', q{UPDATE plain SET title = 1 / 0 WHERE id = 2;; SELECT echocache_get('plain', 2)}, 'and after one that failed');
hits('1 0', q{SELECT echocache_get('plain', 2) FROM plain WHERE id = 2 FOR UPDATE}, 'a row that is only locked is not changed');

# A child of an attached table that goes at the commit itself.
is($s->attempt(q{BEGIN; CREATE TEMP TABLE child () INHERITS (session) ON COMMIT DROP; INSERT INTO child VALUES (99); COMMIT}) // $s->messages, '',
	'ON COMMIT DROP of a child of an attached table is no error');

#
# Another extension's PRE_COMMIT callback.
#
my $module = PostgreSQL::Test::Utils::tempdir();
system_or_bail('cp', glob("$FindBin::RealBin/../modules/precommit/*"), $module);
system_or_bail('make', '-s', '-C', $module, 'with_llvm=no', 'PG_CONFIG=' . ($ENV{PG_CONFIG} // 'pg_config'));

for my $order ('before', 'after')
{
	my $libraries = $order eq 'before' ? "echocache,$module/precommit" : "$module/precommit,echocache";
	$s->quit;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
	$node->restart;
	$s = session($node, sql => q{DROP TABLE IF EXISTS late, late_part CASCADE; CREATE TABLE late (id int PRIMARY KEY, v text); CREATE TABLE late_part (late_id int);
		CREATE TABLE IF NOT EXISTS elsewhere (id int);
		CREATE OR REPLACE FUNCTION late_made(l late) RETURNS json STABLE LANGUAGE sql AS $$ SELECT json_build_object('id', l.id, 'v', l.v) $$;
		SELECT echocache_attach('late', 'late', document => 'late_made'), echocache_attach_dependent('late_part', 'late_id', 'late');
		INSERT INTO late SELECT g, 'old' FROM generate_series(1, 3) g});
	wait_state($s, 'UP');
	my $document = sub { return qq({"id" : $_[0], "v" : "$_[1]"}) };
	my $cached = sub {
		wait_for('the documents to be cached', sub {
			$s->run(q{SELECT count(*) FROM echocache_get_many('late', ARRAY[1, 2, 3])});
			return !grep { ($memcached->get("late:$_") // 'null') eq 'null' } 1 .. 3;
		});
	};

	for my $case (
		[ 'a transaction that has changed nothing', 'SELECT 1' ],
		[ 'one that has changed something else', 'INSERT INTO elsewhere VALUES (1)' ],
		[ 'one that has changed a document', q{UPDATE late SET v = 'by the user' WHERE id = 2} ],
		[ 'one that has changed this document', q{UPDATE late SET v = 'by the user' WHERE id = 1} ])
	{
		my ($what, $sql) = @$case;

		for my $late (q{UPDATE late SET v = 'late' WHERE id = 1}, 'INSERT INTO late_part VALUES (1)', 'TRUNCATE late_part')
		{
			for my $end ('COMMIT', q{PREPARE TRANSACTION 'p'})
			{
				my $name = "$late $order us, in $what, $end";

				$cached->();
				$s->run(q{SET precommit.sql = ''});
				$s->run("BEGIN; $sql");
				$s->run("SET LOCAL precommit.sql = '" . $late =~ s/'/''/gr . "'");
				my $done = $s->attempt($end);
				my $messages = $s->messages;
				$s->run('ROLLBACK') if !defined $done;
				if ($order eq 'before')
				{
					is($messages, '', "$name: is done");
					$s->run(q{COMMIT PREPARED 'p'}) if $end ne 'COMMIT';
				}
				else
				{
					like($messages, qr/^25000: cached documents were changed after their markers had been set\n/, "$name: is refused");
				}
				my $row = $s->run('SELECT v FROM late WHERE id = 1');
				is($s->run(q{SELECT echocache_get('late', 1)}), $document->(1, $row), 'and what is read is what the table has');
				is($s->run(q{SELECT count(*) FROM pg_prepared_xacts}), 0, 'nothing is left');
				$s->run(q{UPDATE late SET v = 'old'; DELETE FROM late_part});
			}
		}
	}
	# What others do to other tables then is nobody's business.
	$s->run(q{SET precommit.sql = 'INSERT INTO elsewhere VALUES (2)'});
	is($s->attempt(q{UPDATE late SET v = 'new' WHERE id = 3}) // $s->messages, '', "a write to another table $order us");
	is($s->run(q{SELECT echocache_get('late', 3)}), $document->(3, 'new'), 'does no harm');
	$s->run('RESET precommit.sql');
}

done_testing();
