"""kombu's tables and ours, for the databases that SQLAlchemy speaks to."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from greenmq.transport.sqlalchemy.tables import MAX_NAME, Tables

__all__ = ('Schema', 'schema_of')


class Schema:
    """The tables, as SQLAlchemy knows them; kombu's as kombu declares them."""

    def __init__(self, tables: Tables) -> None:
        self.metadata = metadata = sa.MetaData()
        number = sa.Integer().with_variant(sa.BigInteger, 'mssql')
        # kombu's TEXT holds 64 KiB in MySQL; a table that is there is left as it is.
        payload = sa.Text().with_variant(mysql.LONGTEXT, 'mysql', 'mariadb')
        kept: dict[str, Any] = {'sqlite_autoincrement': True, 'mysql_engine': 'InnoDB'}
        self.queue = sa.Table(
            tables.queue, metadata,
            sa.Column('id', number, sa.Sequence('queue_id_sequence'), primary_key=True, autoincrement=True),
            sa.Column('name', sa.String(MAX_NAME), unique=True), **kept,
        )  # fmt: skip
        self.message = sa.Table(
            tables.message, metadata,
            sa.Column('id', number, sa.Sequence('message_id_sequence'), primary_key=True, autoincrement=True),
            sa.Column('visible', sa.Boolean, index=True),
            sa.Column('timestamp', sa.DateTime, nullable=True, index=True),
            sa.Column('payload', payload, nullable=False),
            sa.Column('version', sa.SmallInteger, nullable=False),
            sa.Column(
                'queue_id', number, sa.ForeignKey(f'{tables.queue}.id', name='FK_kombu_message_queue')
            ),
            sa.Index(f'ix_{tables.message}_timestamp_id', 'timestamp', 'id'), **kept,
        )  # fmt: skip
        columns = self.message.c
        # A claim reads what it takes and nothing else, however many rows are dead or another queue's.
        self.ready = sa.Index(
            f'ix_{tables.message}_greenmq', columns.queue_id, columns.visible, columns.timestamp, columns.id
        )
        name, text = sa.String(MAX_NAME), sa.Text
        self.delivery = sa.Table(
            tables.delivery, metadata,
            sa.Column('message_id', sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column('owner', sa.String(64), index=True),
            sa.Column('deliveries', sa.Integer, nullable=False), mysql_engine='InnoDB',
        )  # fmt: skip
        self.owner = sa.Table(
            tables.owner, metadata, sa.Column('id', sa.String(64), primary_key=True),
            sa.Column('until', sa.Float(53), nullable=False), mysql_engine='InnoDB',
        )  # fmt: skip
        self.facts = sa.Table(
            tables.facts, metadata, sa.Column('queue', name, primary_key=True),
            sa.Column('arguments', text, nullable=False), sa.Column('owner', sa.String(64)),
            sa.Column('lives', sa.Float(53)), sa.Column('used', sa.Float(53), nullable=False),
            mysql_engine='InnoDB',
        )  # fmt: skip
        self.binding = sa.Table(
            tables.binding, metadata,
            sa.Column('number', sa.Integer, primary_key=True, autoincrement=True),
            sa.Column('exchange', name, nullable=False, index=True), sa.Column('kind', sa.String(20)),
            sa.Column('routing_key', text, nullable=False), sa.Column('queue', name, nullable=False),
            sa.Column('arguments', text, nullable=False), mysql_engine='InnoDB',
        )  # fmt: skip


@functools.lru_cache(maxsize=16)
def schema_of(tables: Tables) -> Schema:
    """Return the tables of these names, which connections share.

    SQLAlchemy's tables and columns hold each other: one for each connection would wait for the collector.
    """
    return Schema(tables)
