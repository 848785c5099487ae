"""Which namespace a URL or a connection string means, and with what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from greenmq.exceptions import InvalidArgument
from greenmq.transport.entra import IDENTITIES

__all__ = ('SCHEME', 'Account', 'account_of', 'options_of', 'split')

SCHEME = 'azureservicebus://'
#: What names of namespaces end with that are given without a dot.
SUFFIX = '.servicebus.windows.net'
#: Ports of AMQP over TLS, of the emulator's AMQP, and of its management.
TLS_PORT, PLAIN_PORT, EMULATOR_MANAGEMENT = 5671, 5672, 5300

_HOW = 'azureservicebus://POLICY:KEY@NAMESPACE'


class Account(NamedTuple):
    """A namespace and how to be let in.

    Attributes:
        host (str), port (int): where it speaks AMQP.
        tls (bool): over TLS.
        kind (str): 'key', 'sas', 'identity', or 'given' for a credential object of the program.
        policy (str), secret (str): its policy and key; the SAS token; the class of azure-identity.
        entity (str): the one queue that the credential is for; '' for all.
        management (str): where it speaks HTTP, without a slash at the end.
    """

    host: str
    port: int
    tls: bool
    kind: str
    policy: str
    secret: str
    entity: str
    management: str

    def __repr__(self) -> str:
        return f'<Account {self.host}:{self.port}, by {self.kind}>'


def split(url: str) -> tuple[str, str, str]:
    """Return credential, address and query of a URL, nothing decoded; '' for what it lacks.

    The credential ends at the last @ before the query: a key may hold slashes, and one that was not encoded a
    question mark.
    """
    text = url[len(SCHEME) :] if url.lower().startswith(SCHEME) else url
    rest, _, query = text.partition('?')
    credential, at, address = rest.rpartition('@')
    if not at and '@' in query:
        credential, _, rest = text.rpartition('@')
        address, _, query = rest.partition('?')
    return credential, address.rstrip('/'), query


def options_of(url: str) -> dict[str, str]:
    """Return the transport options that stand in the query of a URL."""
    return dict(parse_qsl(split(url)[2], keep_blank_values=True))


def full_host(host: str) -> str:
    """The whole name of a namespace's host."""
    return host if '.' in host or host == 'localhost' or ':' in host else host + SUFFIX


def account_of(
    url: str,
    connection_string: str | None = None,
    given: bool = False,
    tls: bool | None = None,
    management_url: str | None = None,
) -> Account:
    """Return the namespace that a URL, or a connection string of the portal, names.

    Arguments:
        given (bool): the program has a credential object: neither needs one.
        tls (bool | None): asked for; None for the default. Without it only on the loopback.
        management_url (str | None): where to make and count queues; None for the service's own place.
    Raises:
        InvalidArgument: it names none, or half a credential. Shows nothing of a secret.
    """
    if connection_string:
        return _of_string(connection_string, given, tls, management_url)
    credential, address, _ = split(url)
    if not address or (not credential and not given):
        raise InvalidArgument('the URL', _HOW, 'is the shape of it; or give the option connection_string')
    kind, policy, secret = ('given', '', '') if given else _read(credential)
    return _account(address, kind, policy, secret, '', tls, management_url)


def _account(
    address: str, kind: str, policy: str, secret: str, entity: str, tls: bool | None,
    management_url: str | None, emulator: bool = False,
) -> Account:  # fmt: skip
    host, port = _host_and_port(address)
    loopback = host in ('localhost', '::1') or host.startswith('127.')
    encrypted = not emulator if tls is None else tls
    if not encrypted and not loopback and not emulator:
        raise InvalidArgument('tls', False, 'would show tokens and messages: only on the loopback')
    if emulator and kind in ('identity', 'given') and not loopback:
        raise InvalidArgument('the emulator', host, 'would be shown tokens of Entra ID')
    host = full_host(host)
    if management_url is None:
        shown = f'[{host}]' if ':' in host else host
        management_url = f'https://{shown}' if encrypted else f'http://{shown}:{EMULATOR_MANAGEMENT}'
    default = TLS_PORT if encrypted else PLAIN_PORT
    return Account(
        host, port or default, encrypted, kind, policy, secret, entity, management_url.rstrip('/')
    )


def _host_and_port(address: str) -> tuple[str, int | None]:
    host, _, port = address.rpartition(':')
    if address.startswith('['):
        end = address.find(']')
        host, port = address[1:end], address[end + 1 :].lstrip(':')
    elif not host:
        host, port = address, ''
    if port and not port.isdecimal():
        raise InvalidArgument('the port', port, 'is no number')
    return host, int(port) if port else None


def _read(credential: str) -> tuple[str, str, str]:
    if credential.lower() in IDENTITIES:
        return 'identity', '', IDENTITIES[credential.lower()]
    policy, colon, key = credential.partition(':')
    if not colon or not policy or not key:
        words = ', '.join(IDENTITIES.values())
        raise InvalidArgument('the credential', '**', f'is neither POLICY:KEY nor one of {words}')
    return 'key', unquote(policy), unquote(key)


def _of_string(text: str, given: bool, tls: bool | None, management_url: str | None) -> Account:
    """Return the namespace of a connection string."""
    pairs = (part.partition('=') for part in text.split(';') if part.strip())
    facts: Mapping[str, str] = {name.strip().lower(): value.strip() for name, _, value in pairs}
    address = facts.get('endpoint', '').partition('://')[2].strip('/')
    policy, key = facts.get('sharedaccesskeyname', ''), facts.get('sharedaccesskey', '')
    token = facts.get('sharedaccesssignature', '')
    if given:
        kind, secret = 'given', ''
    elif policy and key:
        kind, secret = 'key', key
    else:
        kind, policy, secret = 'sas', '', token
    if not address or not (secret or given):
        needed = 'Endpoint, and SharedAccessKeyName with SharedAccessKey, or SharedAccessSignature'
        raise InvalidArgument('connection_string', '**', f'lacks {needed}')
    emulator = facts.get('usedevelopmentemulator', '').lower() == 'true'
    return _account(
        address, kind, policy, secret, facts.get('entitypath', ''), tls, management_url, emulator
    )
