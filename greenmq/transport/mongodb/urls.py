"""URLs of MongoDB: what is pymongo's is left untouched, what is greenmq's is taken out first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote_plus, unquote_plus

from greenmq.transport.options import convert, options_table

__all__ = ('Target', 'options_of', 'target_of')


class Target(NamedTuple):
    """Where the messages are.

    Attributes:
        uri (str): for pymongo, with the password.
        shown (str): the servers, for texts.
    """

    uri: str
    database: str
    shown: str


def _split(url: str, transport_cls: Any) -> tuple[str, dict[str, str]]:
    # kombu takes the 'mongodb+' away from 'mongodb+srv://'
    if url.startswith('srv://'):
        url = f'mongodb+{url}'
    if '://' not in url:
        url = f'mongodb://{url}'
    base, mark, query = url.partition('?')
    # connectTimeoutMS and its like are pymongo's; none of ours is called as one of those.
    known = options_table(transport_cls)
    ours: dict[str, str] = {}
    theirs: list[str] = []
    for pair in query.split('&') if mark else ():
        name, _, value = pair.partition('=')
        if name in known:
            ours[name] = unquote_plus(value)
        elif pair:
            theirs.append(pair)
    return base + ('?' + '&'.join(theirs) if theirs else ''), ours


def options_of(url: str, transport_cls: Any) -> dict[str, Any]:
    """Return the transport options in the query of a URL.

    Raises:
        InvalidArgument: one has no such value.
    """
    return convert(_split(url, transport_cls)[1], transport_cls)


def target_of(client: Any, transport_cls: Any, settings: Mapping[str, Any]) -> Target:
    """Return what a Connection's URL, user, password and virtual host say together."""
    uri = _split(client.hostname or '', transport_cls)[0]
    scheme, _, rest = uri.partition('://')
    rest, mark, query = rest.partition('?')
    servers, slash, path = rest.partition('/')
    login, at, hosts = servers.rpartition('@')
    if not hosts:
        hosts = settings['default_hostname']
        if settings['default_port'] != 27017:
            hosts = f'{hosts}:{settings["default_port"]}'
    elif client.port and scheme == 'mongodb' and ':' not in hosts and ',' not in hosts:
        hosts = f'{hosts}:{client.port}'
    if not at and client.userid:
        login = quote_plus(client.userid)
        if client.password:
            login += f':{quote_plus(client.password)}'
    database = unquote_plus(path) or (client.virtual_host or '').strip('/') or settings['default_database']
    whole = f'{scheme}://{f"{login}@" if login else ""}{hosts}/{path}'
    return Target(whole + (f'?{query}' if query else ''), database, hosts)
