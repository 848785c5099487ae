"""The statements of PostgreSQL. Each is one transaction and carries a batch.

The server plans a prepared statement anew for each run if the values at hand promise a cheaper plan than any
would, and that took it longer than all the rest of a claim, or of an ack. So it does not see them: an array
stands as ``(SELECT $1::text[])``, and how many rows to take is part of the text.
"""

from __future__ import annotations

from typing import NamedTuple

from greenmq.transport.postgresql import side_tables
from greenmq.transport.postgresql.side_tables import UNHURRIED, tell, tell_one
from greenmq.transport.sqlalchemy.tables import Tables

__all__ = ('Statements',)

#: kombu's tables as SQLAlchemy makes them for kombu, and our deliveries.
_CREATE = """
SELECT pg_advisory_xact_lock(hashtext('greenmq tables'));
CREATE SEQUENCE IF NOT EXISTS queue_id_sequence;
CREATE SEQUENCE IF NOT EXISTS message_id_sequence;
CREATE TABLE IF NOT EXISTS "{queue}" (
    id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(200) UNIQUE
);
CREATE TABLE IF NOT EXISTS "{message}" (
    id INTEGER NOT NULL PRIMARY KEY, visible BOOLEAN, timestamp TIMESTAMP WITHOUT TIME ZONE,
    payload TEXT NOT NULL, version SMALLINT NOT NULL,
    queue_id INTEGER CONSTRAINT "FK_kombu_message_queue" REFERENCES "{queue}" (id)
);
CREATE INDEX IF NOT EXISTS "ix_{message}_visible" ON "{message}" (visible);
CREATE INDEX IF NOT EXISTS "ix_{message}_timestamp" ON "{message}" (timestamp);
CREATE INDEX IF NOT EXISTS "ix_{message}_timestamp_id" ON "{message}" (timestamp, id);
CREATE TABLE IF NOT EXISTS "{delivery}" (
    message_id BIGINT PRIMARY KEY, owner BIGINT, claim BIGINT, deliveries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS "ix_{delivery}_owner" ON "{delivery}" (owner, claim)
"""

#: Makes a claim read what it takes and nothing else, however many dead rows kombu left.
#: It does not wait long for who writes: all others would wait behind it.
_INDEX = """
SELECT set_config('lock_timeout', '1s', true);
CREATE INDEX IF NOT EXISTS "ix_{message}_greenmq" ON "{message}" (queue_id, timestamp, id) WHERE visible
"""

_TRIGGER = """
SELECT pg_advisory_xact_lock(hashtext('greenmq tables'));
CREATE OR REPLACE FUNCTION "{message}_greenmq_tell"() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_notify('{channel}', 'q' || named.name) FROM (
        SELECT DISTINCT q.name FROM added JOIN "{queue}" q ON q.id = added.queue_id
        WHERE EXISTS (
            SELECT 1 FROM "{owner}" o WHERE o.until > clock_timestamp() AND q.name = ANY(o.queues)
        )
    ) named;
    RETURN NULL;
END $body$;
DROP TRIGGER IF EXISTS greenmq_tell ON "{message}";
CREATE TRIGGER greenmq_tell AFTER INSERT ON "{message}" REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE PROCEDURE "{message}_greenmq_tell"()
"""

_PUT = """
WITH given AS (
    SELECT g.name, g.payload, g.n, q.id AS queue_id
    FROM unnest((SELECT $3::text[]), (SELECT $4::text[])) WITH ORDINALITY AS g(name, payload, n)
    LEFT JOIN "{queue}" q ON q.name = g.name
), stored AS (
    INSERT INTO "{message}" (id, visible, payload, version, queue_id)
    SELECT nextval('message_id_sequence'), true, o.payload, 1, o.queue_id
    FROM (SELECT * FROM given WHERE queue_id IS NOT NULL ORDER BY n) o RETURNING queue_id
), named AS (
    SELECT g.name FROM given g WHERE g.queue_id IS NOT NULL
)
SELECT n::int FROM given WHERE queue_id IS NULL UNION ALL SELECT -({tell})::int
"""

# A message that is alone: a row, if there is its queue.
_PUT_ONE = """
INSERT INTO "{message}" (id, visible, payload, version, queue_id)
SELECT nextval('message_id_sequence'), true, $4::text, 1, q.id FROM "{queue}" q WHERE q.name = $3::text
RETURNING {tell_one}
"""

# Nobody waits for the disk: a claim that a crash of the server undoes is made again, and what it took is
# delivered twice, as it may be anyway. An ack waits, and with it all that was written before.
_TAKE = """
WITH found AS (
    {found}
), sized AS (
    SELECT f.*, sum(octet_length(f.payload)) OVER (ORDER BY f.turn, f.place, f.id)
        - octet_length(f.payload) AS before FROM found f
), claimed AS (
    UPDATE "{message}" m SET visible = false, timestamp = localtimestamp, version = m.version % 30000 + 1
    FROM sized s WHERE m.id = s.id AND s.before < $2 RETURNING m.id
), held AS (
    INSERT INTO "{delivery}" AS d (message_id, owner, claim) SELECT id, $3::bigint, $4::bigint FROM claimed
    ON CONFLICT (message_id) DO UPDATE SET owner = excluded.owner, claim = excluded.claim
    RETURNING d.message_id, d.deliveries
)
SELECT s.name, s.id, s.payload, h.deliveries FROM held h JOIN sized s ON s.id = h.message_id
WHERE {unhurried} ORDER BY s.turn, s.place, s.id
"""

_FOUND = """SELECT w.name, w.turn, m.id, m.payload, m.place
    FROM (
        SELECT q.id, q.name, g.turn FROM unnest((SELECT $1::text[])) WITH ORDINALITY AS g(name, turn)
        JOIN "{queue}" q ON q.name = g.name ORDER BY g.turn OFFSET 0
    ) w CROSS JOIN LATERAL (
        SELECT v.id, v.payload, v.timestamp AS place FROM "{message}" v WHERE v.queue_id = w.id AND v.visible
        ORDER BY v.timestamp, v.id LIMIT {{room}} FOR UPDATE SKIP LOCKED
    ) m LIMIT {{room}}"""

# Of one queue, as most consumers have it: that costs the server a quarter less.
_FOUND_IN_ONE = """SELECT $1::text AS name, 1 AS turn, v.id, v.payload, v.timestamp AS place
    FROM "{message}" v WHERE v.queue_id = (SELECT q.id FROM "{queue}" q WHERE q.name = $1::text) AND v.visible
    ORDER BY v.timestamp, v.id LIMIT {{room}} FOR UPDATE SKIP LOCKED"""

_DONE = """
WITH mine AS (
    DELETE FROM "{delivery}" WHERE message_id = ANY((SELECT $2::bigint[])::bigint[]) AND owner = $1
    RETURNING message_id
), gone AS (
    DELETE FROM "{message}" WHERE id IN (SELECT message_id FROM mine)
)
SELECT m.id FROM "{message}" m WHERE m.id = ANY((SELECT $2::bigint[])::bigint[])
AND m.id NOT IN (SELECT message_id FROM mine)
"""

_BACK = """
WITH given AS (
    SELECT * FROM unnest((SELECT $3::bigint[]), (SELECT $4::int[])) AS g(id, counted)
), mine AS (
    UPDATE "{delivery}" d SET owner = NULL, claim = NULL, deliveries = d.deliveries + g.counted
    FROM given g WHERE d.message_id = g.id AND d.owner = $2 RETURNING d.message_id
), back AS (
    UPDATE "{message}" m SET visible = true, timestamp = NULL
    FROM mine WHERE m.id = mine.message_id RETURNING m.queue_id
), named AS (
    SELECT DISTINCT q.name FROM back JOIN "{queue}" q ON q.id = back.queue_id
)
SELECT m.id, '' FROM "{message}" m JOIN given g ON g.id = m.id WHERE m.id NOT IN (SELECT message_id FROM mine)
UNION ALL SELECT 0, name FROM named UNION ALL SELECT -({tell})::int, ''
"""

_UNKNOWN = """
WITH mine AS (
    UPDATE "{delivery}" SET owner = NULL, claim = NULL
    WHERE owner = $2 AND claim = ANY((SELECT $3::bigint[])::bigint[])
    RETURNING message_id
), back AS (
    UPDATE "{message}" m SET visible = true, timestamp = NULL
    FROM mine WHERE m.id = mine.message_id RETURNING m.queue_id
), named AS (
    SELECT DISTINCT q.name FROM back JOIN "{queue}" q ON q.id = back.queue_id
)
SELECT name FROM named WHERE ({tell}) >= 0
"""

# The dead are those without a row, and those whose lease is over; whoever has a row locked is alive.
_SWEEP = """
WITH dead AS (
    SELECT d.message_id FROM "{delivery}" d WHERE d.owner IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM "{owner}" o WHERE o.id = d.owner AND o.until > clock_timestamp()
    ) LIMIT 1000 FOR UPDATE OF d SKIP LOCKED
), mine AS (
    UPDATE "{delivery}" d SET owner = NULL, claim = NULL, deliveries = d.deliveries + 1
    FROM dead WHERE d.message_id = dead.message_id RETURNING d.message_id
), back AS (
    UPDATE "{message}" m SET visible = true, timestamp = NULL
    FROM mine WHERE m.id = mine.message_id RETURNING m.queue_id
), named AS (
    SELECT DISTINCT q.name FROM back JOIN "{queue}" q ON q.id = back.queue_id
)
SELECT (SELECT count(*) FROM mine)::int,
coalesce((SELECT array_agg(name::text) FROM named), '{{}}'), ({tell})::int
"""

_CLEAN = """
WITH owners AS (
    DELETE FROM "{owner}" o WHERE o.until < clock_timestamp() - interval '1 minute'
    AND NOT EXISTS (SELECT 1 FROM "{delivery}" d WHERE d.owner = o.id)
)
DELETE FROM "{delivery}" d WHERE d.message_id IN (
    SELECT x.message_id FROM "{delivery}" x LEFT JOIN "{message}" m ON m.id = x.message_id
    WHERE m.id IS NULL LIMIT 10000
)
"""

_PURGE_DELIVERED = """
WITH gone AS (
    DELETE FROM "{message}" WHERE id IN (
        SELECT m.id FROM "{message}" m WHERE NOT m.visible
        AND NOT EXISTS (SELECT 1 FROM "{delivery}" d WHERE d.message_id = m.id)
        LIMIT 1000 FOR UPDATE OF m SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*)::int FROM gone
"""

_EXTEND = """
WITH renewed AS (
    UPDATE "{owner}" SET until = clock_timestamp() + make_interval(secs => $2) WHERE id = $1
)
SELECT g.id FROM unnest((SELECT $3::bigint[])) g(id)
WHERE NOT EXISTS (SELECT 1 FROM "{delivery}" d WHERE d.message_id = g.id AND d.owner = $1)
"""

_MAKE = """
WITH made AS (
    INSERT INTO "{queue}" (id, name) SELECT nextval('queue_id_sequence'), $1::text
    WHERE NOT EXISTS (SELECT 1 FROM "{queue}" WHERE name = $1::text) ON CONFLICT DO NOTHING
)
INSERT INTO "{facts}" (queue, arguments, owner, lives, used)
SELECT $1::text, $2::text, $3::bigint, make_interval(secs => $4::float8), clock_timestamp()
WHERE $2::text <> '{{}}' OR $3::bigint IS NOT NULL OR EXISTS (SELECT 1 FROM "{facts}" WHERE queue = $1::text)
ON CONFLICT (queue) DO UPDATE
SET arguments = excluded.arguments, owner = excluded.owner, lives = excluded.lives, used = excluded.used
"""

_DELETE = """
WITH messages AS (
    DELETE FROM "{message}" WHERE queue_id = (SELECT id FROM "{queue}" WHERE name = $1::text) RETURNING id
), deliveries AS (
    DELETE FROM "{delivery}" WHERE message_id IN (SELECT id FROM messages)
), facts AS (
    DELETE FROM "{facts}" WHERE queue = $1::text
), bindings AS (
    DELETE FROM "{binding}" WHERE queue = $1::text RETURNING exchange
), queues AS (
    DELETE FROM "{queue}" WHERE name = $1::text
)
SELECT pg_notify('{channel}', 'b' || exchange) FROM bindings GROUP BY exchange
"""

_PURGE = """
WITH gone AS (
    DELETE FROM "{message}" WHERE visible
    AND queue_id = (SELECT id FROM "{queue}" WHERE name = $1::text) RETURNING id
), counted AS (
    DELETE FROM "{delivery}" WHERE message_id IN (SELECT id FROM gone)
)
SELECT count(*)::int FROM gone
"""

_SIZE = """
SELECT count(*)::int FROM "{message}"
WHERE visible AND queue_id = (SELECT id FROM "{queue}" WHERE name = $1::text)
"""

_QUEUES = """
SELECT q.name, count(m.id) FILTER (WHERE m.visible), count(d.message_id) FILTER (WHERE d.owner IS NOT NULL)
FROM "{queue}" q LEFT JOIN "{message}" m ON m.queue_id = q.id
LEFT JOIN "{delivery}" d ON d.message_id = m.id
GROUP BY q.name ORDER BY q.name
"""

_THERE = """
SELECT every(to_regclass(quote_ident(t)) IS NOT NULL),
to_regclass(quote_ident('ix_{message}_greenmq')) IS NOT NULL, EXISTS (
    SELECT 1 FROM pg_trigger
    WHERE tgname = 'greenmq_tell' AND tgrelid = to_regclass(quote_ident('{message}'))
)
FROM unnest(ARRAY['{queue}', '{message}', '{delivery}', '{owner}', '{facts}', '{binding}']) t
"""

_LEAVE = """
DELETE FROM "{owner}" o WHERE o.id = $1 AND NOT EXISTS (SELECT 1 FROM "{delivery}" d WHERE d.owner = o.id)
"""


class Statements(NamedTuple):
    """The statements for some tables; $1 and so on are their values, as the driver gives them.

    `take`, from some queues, and `take_one`, from one, are to be formatted with `room`, the messages to take
    at most.
    """

    there: str
    create: str
    make_index: str
    trigger: str
    leave: str
    put: str
    put_one: str
    take: str
    take_one: str
    done: str
    back: str
    unknown: str
    extend: str
    sweep: str
    clean: str
    purge_delivered: str
    make: str
    has: str
    delete: str
    purge: str
    size: str
    queues: str

    @classmethod
    def of(cls, tables: Tables, channel: str) -> Statements:
        """Write them for some tables, telling waiters on a channel."""
        names = {**tables._asdict(), 'channel': channel}

        def written(statement: str) -> str:
            return statement.format(
                **names, tell=tell(tables.owner, channel), tell_one=tell_one(tables.owner, channel),
                unhurried=UNHURRIED,
            )

        return cls(
            *map(written, (
                _THERE, f'{_CREATE};{side_tables.CREATE}', _INDEX, _TRIGGER, _LEAVE, _PUT, _PUT_ONE,
                _TAKE.replace('{found}', _FOUND), _TAKE.replace('{found}', _FOUND_IN_ONE), _DONE,
                _BACK, _UNKNOWN, _EXTEND, _SWEEP, _CLEAN, _PURGE_DELIVERED, _MAKE,
                'SELECT 1 FROM "{queue}" WHERE name = $1::text',
                _DELETE, _PURGE, _SIZE, _QUEUES,
            )),
        )  # fmt: skip
