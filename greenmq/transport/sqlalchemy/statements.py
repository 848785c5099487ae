"""The statements of PostgreSQL. Each is one transaction and carries a batch."""

from __future__ import annotations

from typing import NamedTuple

from greenmq.transport.sqlalchemy.tables import Tables

__all__ = ('Statements',)

#: kombu's tables as SQLAlchemy makes them for kombu, and ours.
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
CREATE TABLE IF NOT EXISTS "{owner}" (
    id BIGSERIAL PRIMARY KEY, until TIMESTAMPTZ NOT NULL, host TEXT NOT NULL,
    queues TEXT[] NOT NULL DEFAULT '{{}}'
);
CREATE TABLE IF NOT EXISTS "{delivery}" (
    message_id BIGINT PRIMARY KEY, owner BIGINT, claim BIGINT, deliveries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS "ix_{delivery}_owner" ON "{delivery}" (owner, claim);
CREATE TABLE IF NOT EXISTS "{facts}" (
    queue TEXT PRIMARY KEY, arguments TEXT NOT NULL, owner BIGINT, lives INTERVAL, used TIMESTAMPTZ NOT NULL
);
CREATE TABLE IF NOT EXISTS "{binding}" (
    exchange TEXT NOT NULL, kind TEXT NOT NULL, routing_key TEXT NOT NULL, queue TEXT NOT NULL,
    arguments TEXT NOT NULL, PRIMARY KEY (exchange, routing_key, queue, arguments)
)
"""

#: Makes a claim read what it takes and nothing else, however many dead rows kombu left.
_INDEX = """
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

# Who waits for a queue that got messages is told, and nobody else: NOTIFY makes commits wait for each other.
_TELL = """
(SELECT count(pg_notify('{channel}', 'q' || t.name)) FROM (
    SELECT DISTINCT s.name FROM {source} s WHERE $1::boolean AND EXISTS (
        SELECT 1 FROM "{owner}" o WHERE o.id <> $2 AND o.until > clock_timestamp() AND s.name = ANY(o.queues)
    )) t)
"""

_PUT = """
WITH given AS (
    SELECT g.name, g.payload, g.n, q.id AS queue_id
    FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS g(name, payload, n)
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

_TAKE = """
WITH found AS (
    SELECT w.name, w.turn, m.id, m.payload, m.place
    FROM (
        SELECT q.id, q.name, g.turn FROM unnest($1::text[]) WITH ORDINALITY AS g(name, turn)
        JOIN "{queue}" q ON q.name = g.name ORDER BY g.turn OFFSET 0
    ) w CROSS JOIN LATERAL (
        SELECT v.id, v.payload, v.timestamp AS place FROM "{message}" v WHERE v.queue_id = w.id AND v.visible
        ORDER BY v.timestamp, v.id LIMIT $2 FOR UPDATE SKIP LOCKED
    ) m LIMIT $2
), sized AS (
    SELECT f.*, sum(octet_length(f.payload)) OVER (ORDER BY f.turn, f.place, f.id)
        - octet_length(f.payload) AS before FROM found f
), claimed AS (
    UPDATE "{message}" m SET visible = false, timestamp = localtimestamp, version = m.version % 30000 + 1
    FROM sized s WHERE m.id = s.id AND s.before < $3 RETURNING m.id
), held AS (
    INSERT INTO "{delivery}" AS d (message_id, owner, claim) SELECT id, $4::bigint, $5::bigint FROM claimed
    ON CONFLICT (message_id) DO UPDATE SET owner = excluded.owner, claim = excluded.claim
    RETURNING d.message_id, d.deliveries
)
SELECT s.name, s.id, s.payload, h.deliveries FROM held h JOIN sized s ON s.id = h.message_id
ORDER BY s.turn, s.place, s.id
"""

_DONE = """
WITH mine AS (
    DELETE FROM "{delivery}" WHERE message_id = ANY($2::bigint[]) AND owner = $1 RETURNING message_id
), gone AS (
    DELETE FROM "{message}" WHERE id IN (SELECT message_id FROM mine)
)
SELECT m.id FROM "{message}" m WHERE m.id = ANY($2::bigint[]) AND m.id NOT IN (SELECT message_id FROM mine)
"""

_BACK = """
WITH given AS (
    SELECT * FROM unnest($3::bigint[], $4::int[]) AS g(id, counted)
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
    UPDATE "{delivery}" SET owner = NULL, claim = NULL WHERE owner = $2 AND claim = ANY($3::bigint[])
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

_EXPIRED = """
SELECT f.queue FROM "{facts}" f WHERE f.used + f.lives < clock_timestamp() OR (
    f.owner IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM "{owner}" o WHERE o.id = f.owner AND o.until > clock_timestamp()
    )
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

_RENEW = """
WITH mine AS (
    INSERT INTO "{owner}" AS o (id, until, host, queues)
    VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4::text[])
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, queues = excluded.queues RETURNING o.id
), used AS (
    UPDATE "{facts}" SET used = clock_timestamp() WHERE queue = ANY($4::text[]) AND lives IS NOT NULL
)
SELECT id, CASE WHEN $5::boolean THEN pg_notify('{channel}_' || id, 'here')::text END FROM mine
"""

_EXTEND = """
WITH renewed AS (
    UPDATE "{owner}" SET until = clock_timestamp() + make_interval(secs => $2) WHERE id = $1
)
SELECT g.id FROM unnest($3::bigint[]) g(id)
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

_BIND = """
WITH added AS (
    INSERT INTO "{binding}" VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING exchange
)
SELECT pg_notify('{channel}', 'b' || exchange) FROM added
"""

_UNBIND = """
WITH removed AS (
    DELETE FROM "{binding}" WHERE exchange = $1 AND routing_key = $2 AND queue = $3 AND arguments = $4
    RETURNING exchange
)
SELECT pg_notify('{channel}', 'b' || exchange) FROM removed
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

_ENLIST = """
INSERT INTO "{owner}" (until, host) VALUES (clock_timestamp() + make_interval(secs => $1), $2) RETURNING id
"""

_LEAVE = """
DELETE FROM "{owner}" o WHERE o.id = $1 AND NOT EXISTS (SELECT 1 FROM "{delivery}" d WHERE d.owner = o.id)
"""


class Statements(NamedTuple):
    """The statements for some tables; $1 and so on are their values, as the driver gives them."""

    there: str
    create: str
    make_index: str
    trigger: str
    enlist: str
    leave: str
    renew: str
    put: str
    take: str
    done: str
    back: str
    unknown: str
    extend: str
    sweep: str
    clean: str
    expired: str
    purge_delivered: str
    make: str
    has: str
    facts: str
    delete: str
    purge: str
    size: str
    bindings: str
    bind: str
    unbind: str
    queues: str

    @classmethod
    def of(cls, tables: Tables, channel: str) -> Statements:
        """Write them for some tables, telling waiters on a channel."""
        names = {**tables._asdict(), 'channel': channel}

        def written(statement: str, source: str = 'named') -> str:
            tell = _TELL.format(**names, source=source)
            return statement.format(**{**names, 'tell': tell})

        return cls(
            *map(written, (
                _THERE, _CREATE, _INDEX, _TRIGGER, _ENLIST, _LEAVE, _RENEW, _PUT, _TAKE, _DONE, _BACK,
                _UNKNOWN, _EXTEND, _SWEEP, _CLEAN, _EXPIRED, _PURGE_DELIVERED, _MAKE,
                'SELECT 1 FROM "{queue}" WHERE name = $1::text',
                'SELECT arguments FROM "{facts}" WHERE queue = $1',
                _DELETE, _PURGE, _SIZE,
                'SELECT kind, routing_key, queue, arguments FROM "{binding}" WHERE exchange = $1',
                _BIND, _UNBIND, _QUEUES,
            )),
        )  # fmt: skip
