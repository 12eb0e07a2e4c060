--
-- demo.sql
--	  The chat product of demo.sh: its two tables, and conversations of 1 to
--	  140 KB that depend on the settings demo.users, demo.sessions and demo.seed
--	  and on nothing else, so that two runs see the same bytes.
--
-- Copyright (c) 2026, echocache developers

SET client_min_messages = warning;

CREATE TABLE users (
	user_id     uuid PRIMARY KEY,
	name        text NOT NULL,
	email       text NOT NULL UNIQUE,
	created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE chat_sessions (
	session_id  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
	title       text NOT NULL,
	messages    jsonb NOT NULL DEFAULT '[]',
	is_deleted  boolean NOT NULL DEFAULT false,
	created_at  timestamptz NOT NULL DEFAULT now(),
	updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON chat_sessions (user_id);

-- A number of at most 31 bits that depends on the arguments alone.
CREATE FUNCTION pg_temp.draw(n bigint, seed bigint) RETURNS integer LANGUAGE sql AS
	$$ SELECT (hashint8extended(n, seed) & 2147483647)::integer $$;

-- One of the texts; # in it becomes a number.  Successive steps from one draw give different texts.
CREATE FUNCTION pg_temp.pick(a text[], n bigint, seed bigint, step int = 0) RETURNS text LANGUAGE sql AS
	$$ SELECT replace(a[1 + (pg_temp.draw(n, seed) % cardinality(a) + step) % cardinality(a)], '#',
					  (2 + pg_temp.draw(n + step, seed + 1) % 58)::text) $$;

CREATE TEMP TABLE topic (n int, title text, asks text[], answers text[]);
INSERT INTO topic VALUES
(0, 'Sourdough that will not rise', ARRAY[
	'My sourdough came out flat again. What am I doing wrong?',
	'The kitchen is at about # degrees in the morning. Is that the problem?',
	'How do I know that the starter is ready?',
	'Should I add rye to it?',
	'It smelled of acetone today. Do I throw it away?'], ARRAY[
	'A flat loaf is nearly always a young starter or a short bulk fermentation.',
	'Feed it twice a day at one part starter to two parts flour and two parts water, for a week.',
	'Go by the dough and not by the clock: it should have grown by half and wobble when you shake the bowl.',
	'With # g of wholemeal in the mix you will want a little more water.',
	'The smell of acetone only says that it is hungry; feed it and it will recover.',
	'Score it at a shallow angle, and keep the lid on for the first # minutes.']),
(1, 'Query that got slow overnight', ARRAY[
	'A report that took # ms yesterday takes half a minute today. Nothing was deployed.',
	'Here is the plan. It says "rows=1" where there are # thousand.',
	'Would an index on (customer_id, created_at) help?',
	'ANALYZE fixed it! Why did autovacuum not do that?',
	'Can I see which queries changed their plan?'], ARRAY[
	'When nothing was deployed, the statistics are the first suspect: the planner believes one row and gets thousands.',
	'Run ANALYZE on both tables and compare the estimates with EXPLAIN (ANALYZE, BUFFERS).',
	'Autovacuum analyses after a tenth of the table has changed, and on a big table a tenth can be months.',
	'Set autovacuum_analyze_scale_factor to 0.0# for this one table.',
	'A nested loop over # thousand rows is the usual way in which a good plan turns bad.',
	'The index helps if the report asks for few customers; for all of them a sequential scan is right.']),
(2, 'Ten days in Lisbon with children', ARRAY[
	'We will be ten days in Lisbon with two children, # months and six years. What should we not miss?',
	'How do we get to Sintra without a car?',
	'Is the tram 28 worth it with a buggy?',
	'What if it rains all day?',
	'Where do people there go for pastéis de nata?'], ARRAY[
	'With small children plan one thing for the morning and leave the afternoon open.',
	'The Oceanário is worth half a day, and the cable car along the river is right outside.',
	'Trains to Sintra leave from Rossio every # minutes; go early, the palace fills up by eleven.',
	'The tram is lovely and crowded: take it at eight, or ride the 25 instead.',
	'In Belém the queue looks long but moves fast; around the corner they are just as good.',
	'For a wet day there is the Pavilhão do Conhecimento, where everything may be touched.']),
(3, 'Review my cover letter', ARRAY[
	'Could you look at this letter? I apply as a nurse in intensive care, after # years on a surgical ward.',
	'Is the second paragraph too long?',
	'How do I explain the gap of a year?',
	'Can you make it sound less stiff?',
	'And a subject line for the e-mail?'], ARRAY[
	'The opening is strong; the second paragraph repeats the CV and can go down to two sentences.',
	'Say what you did in that year in one plain clause and move on. Nobody minds a gap that is named.',
	'Replace "I am a team player" with the night on which # patients came in and what you took on.',
	'Read it aloud: where you run out of breath the sentence is too long.',
	'Write the ward''s name in the subject, and the word "application" first.']),
(4, 'Le subjonctif, encore', ARRAY[
	'Je ne comprends toujours pas quand il faut le subjonctif. Tu peux m''aider ?',
	'Et après « espérer que » ?',
	'Donne-moi # phrases pour m''entraîner.',
	'« Bien qu''il est tard » : c''est faux ?',
	'Pourquoi « après que » prend-il l''indicatif ?'], ARRAY[
	'Le subjonctif exprime un souhait, un doute, une émotion ou une nécessité : « il faut que tu viennes ».',
	'« Espérer que » demande l''indicatif : on présente la chose comme probable.',
	'Après « bien que », toujours le subjonctif : « bien qu''il soit tard ».',
	'« Après que » parle d''un fait accompli, donc l''indicatif, même si beaucoup de gens s''y trompent.',
	'Pour t''entraîner, transforme # phrases qui commencent par « je pense que » avec « je ne pense pas que ».']),
(5, '引っ越しの準備', ARRAY[
	'来月大阪に引っ越します。何から始めればいいですか。',
	'荷物は段ボール#箱くらいです。',
	'電気とガスの手続きはいつまでですか。',
	'猫を連れて新幹線に乗れますか。'], ARRAY[
	'まず引っ越し業者の見積もりを三社から取り、日程を決めましょう。',
	'転出届は引っ越しの十四日前から出せます。',
	'電気は前日までで大丈夫ですが、ガスの開栓には立ち会いが必要です。',
	'猫はケースに入れれば手回り品きっぷで乗車できます。',
	'段ボール#箱なら、二トントラックで十分です。']),
(6, 'Knee pain after running', ARRAY[
	'Since I went up to # km a week the outside of my knee hurts. Should I stop?',
	'It only hurts going downhill.',
	'Do new shoes help?',
	'How long until I can race again?'], ARRAY[
	'Pain on the outside that comes downhill is often the iliotibial band; a physiotherapist can tell in a few minutes.',
	'Take the distance down by a third for two weeks rather than stopping altogether.',
	'Strengthen the hips: side planks and step-downs, # of each, every other day.',
	'If it swells, locks or wakes you at night, see a doctor before you run again.',
	'Shoes rarely are the cause, but change them after # hundred kilometres all the same.']),
(7, 'Der Zug nach Prag', ARRAY[
	'Ich möchte im Mai mit dem Nachtzug nach Prag. Geht das von Zürich?',
	'Kann ich das Fahrrad mitnehmen?',
	'Was kostet ein Liegeplatz ungefähr?',
	'Und wenn der Anschluss platzt?'], ARRAY[
	'Ja, der Nachtzug fährt täglich; die Plätze für Mai sind etwa # Tage im Voraus schon knapp.',
	'Fahrräder gehen nur mit Reservierung, und es gibt # Stellplätze im ganzen Zug.',
	'Im Liegewagen zu viert sind es rund # Euro mehr als im Sitzwagen, und man schläft wirklich.',
	'Mit einer durchgehenden Fahrkarte gilt die Zugbindung nicht mehr, sobald der Anschluss verpasst ist.',
	'Größeres Gepäck kommt unter die unterste Liege, dort passt auch ein Kinderwagen hin.']),
(8, 'Tomatoes on a north balcony', ARRAY[
	'My balcony faces north. Is there any tomato that will do?',
	'The leaves are curling inwards. 😟',
	'How much water is right?',
	'Something ate # of them last night.'], ARRAY[
	'Cherry tomatoes ask for the least sun; with four hours a day you will still get a few handfuls.',
	'Curling without spots is mostly wind or heat, not disease; move the pot to the wall.',
	'Water in the morning, at the root, about # decilitres for a pot of that size.',
	'Slugs climb. A ring of copper tape around the pot keeps most of them off.',
	'Take off the side shoots below the first flowers, and it will put its strength into fruit. 🍅']),
(9, 'Explaining inflation to a class', ARRAY[
	'I teach # fourteen-year-olds and want to explain inflation without a chart.',
	'They will ask why one does not just print more money.',
	'Is there a game for that?',
	'What would be a good homework?'], ARRAY[
	'Let them auction chocolate with paper money, then hand out twice the money and auction again.',
	'Ask who is richer now: everybody has more notes and nobody has more chocolate.',
	'Homework: a price that a grandparent remembers, and the same thing today.',
	'Keep deflation for the next lesson, it only confuses them before they have the first idea firmly.',
	'# minutes for the auction are enough; the talk afterwards is the lesson.']);

INSERT INTO users
SELECT md5('user ' || n)::uuid, first || ' ' || last, lower(translate(first, 'éøá', 'eoa')) || n || '@example.org',
	   timestamptz '2026-01-05 08:00+00' + n * interval '7 hours'
FROM generate_series(1, current_setting('demo.users')::int) n,
	 LATERAL (SELECT
		pg_temp.pick('{Maya,Jonas,Aiko,Samuel,Inés,Priya,Luca,Noor,Chloé,Tomás,Ewa,Kofi,Søren,Leila}', n, 1),
		pg_temp.pick('{Lindqvist,Okafor,Tanaka,Moreau,Silva,Novak,Haddad,Weber,Costa,Iyer,Murphy}', n, 3)
	 ) AS name (first, last);

DO $do$
DECLARE
	seed	bigint := current_setting('demo.seed')::bigint;
	sessions int := current_setting('demo.sessions');
	draws	bigint;
	t		topic;
	size	int;
	target	int;
	text	text;
	reply	boolean;
	clock	timestamptz;
	said	text[];
	at		timestamptz[];
BEGIN
	FOR n IN 1 .. sessions LOOP
		draws := n * 1000000;
		SELECT * INTO t FROM topic WHERE topic.n = pg_temp.draw(draws, seed) % 10;
		-- From 1 to 140 KB, each size as likely as its double.
		target := 1000 * power(139, (n * 7919 % sessions) / (sessions - 1.0));
		clock := timestamptz '2026-02-02 07:30+00' + n * interval '97 minutes';
		said := '{}'; at := '{}'; size := 260; reply := false;
		LOOP
			draws := draws + 20;
			IF reply THEN
				SELECT string_agg(pg_temp.pick(t.answers, draws, seed, i), ' ' ORDER BY i) INTO text
				FROM generate_series(0, pg_temp.draw(draws + 1, seed) % 5) i;
			ELSIF size = 260 THEN
				text := pg_temp.pick(t.asks[1:1], draws, seed);
			ELSE
				text := pg_temp.pick(t.asks, draws, seed);
			END IF;
			size := size + 72 + octet_length(text);
			clock := clock + (5 + pg_temp.draw(draws + 2, seed) % 200) * interval '1 second';
			said := said || text; at := at || clock;
			reply := NOT reply;
			EXIT WHEN size >= target AND NOT reply;
		END LOOP;
		INSERT INTO chat_sessions
		SELECT md5('session ' || n)::uuid,
			   md5('user ' || 1 + pg_temp.draw(n, seed + 9) % current_setting('demo.users')::int)::uuid,
			   t.title,
			   (SELECT jsonb_agg(jsonb_build_object('at', m.at, 'content', m.said,
							'role', CASE WHEN m.i % 2 = 1 THEN 'user' ELSE 'assistant' END)
							ORDER BY m.i)
				FROM unnest(said, at) WITH ORDINALITY AS m (said, at, i)),
			   false, at[1], clock;
	END LOOP;
END
$do$;
ANALYZE users, chat_sessions;
