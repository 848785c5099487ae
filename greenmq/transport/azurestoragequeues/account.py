"""Which account a URL means, and with what it is asked: a key, a SAS token, or tokens of Entra ID."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from greenmq.exceptions import InvalidArgument
from greenmq.transport.entra import IDENTITIES

__all__ = ('SCHEME', 'Account', 'account_of', 'options_of', 'split')

SCHEME = 'azurestoragequeues://'
#: The account of Azurite and its key, which Microsoft publishes.
EMULATOR = (
    'http://127.0.0.1:10001/devstoreaccount1',
    'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==',
)
_HOW = 'azurestoragequeues://CREDENTIAL@https://ACCOUNT.queue.core.windows.net'


class Account(NamedTuple):
    """A storage account and how to be let in.

    Attributes:
        url (str): where its queues are, without a slash at the end.
        name (str): of the account; '' where nothing needs it.
        kind (str): 'key', 'sas', 'identity', or 'given' for a credential object of the program.
        secret (str): the key as base64, the SAS token without '?', or the class of azure-identity.
    """

    url: str
    name: str
    kind: str
    secret: str

    @property
    def shown(self) -> str:
        """Host, port and path, for texts."""
        return self.url.partition('://')[2]

    def __repr__(self) -> str:
        return f'<Account {self.url}, by {self.kind}>'


def split(url: str) -> tuple[str, str, str]:
    """Return credential, address and query of a URL, nothing decoded; '' for what it lacks.

    The credential ends at the last @ before the address's scheme, or else at the last one: a key may hold
    slashes, and whatever stands in the query must not move the border.
    """
    text = url[len(SCHEME) :] if url.lower().startswith(SCHEME) else url
    borders = [found.start() for found in re.finditer('@(?=https?://)', text, re.IGNORECASE)]
    border = borders[-1] if borders else text.rfind('@')
    credential, place = text[: max(border, 0)], text[border + 1 :]
    address, _, query = place.partition('?')
    return credential, address.rstrip('/'), query


def options_of(url: str) -> dict[str, str]:
    """Return the transport options that stand in the query of a URL.

    Raises:
        InvalidArgument: it holds a SAS token, whose place is before the @.
    """
    found = dict(parse_qsl(split(url)[2], keep_blank_values=True))
    if 'sig' in found:
        raise InvalidArgument('the URL', _HOW, 'has the place of a SAS token before the @, not at the end')
    return found


def account_of(url: str, connection_string: str | None, given: bool = False) -> Account:
    """Return the account that a URL, or a connection string of the portal, names.

    Arguments:
        given (bool): the program has a credential object: neither needs one.
    Raises:
        InvalidArgument: it names none, or a key that is none. Shows nothing of a secret.
    """
    credential, address, _ = split(url)
    if connection_string:
        credential, address, name = _of_string(connection_string)
    else:
        name = ''
    if not address:
        raise InvalidArgument('the URL', _HOW, 'is the shape of it; or give the option connection_string')
    if '://' not in address:
        address = f'https://{address}'
    parts = urlsplit(address)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise InvalidArgument('the account URL', parts.scheme, 'is neither http:// nor https:// with a host')
    name = name or _name_of(parts.hostname, parts.path)
    kind, secret = ('given', '') if given else _read(credential)
    if kind == 'key' and not name:
        raise InvalidArgument('the account URL', parts.hostname, 'names no account')
    loopback = parts.hostname in ('localhost', '::1') or parts.hostname.startswith('127.')
    if kind in ('identity', 'given') and parts.scheme == 'http' and not loopback:
        raise InvalidArgument('the account URL', 'http', 'would show the tokens of Entra ID: use https')
    return Account(address, name, kind, secret)


def _name_of(host: str, path: str) -> str:
    # NAME.queue.SUFFIX, whatever the cloud; else the path names it, as at Azurite.
    label, _, rest = host.partition('.')
    if '.queue.' in f'.{rest}' and not label.isdigit():
        return label.removesuffix('-secondary')
    return path.strip('/').partition('/')[0]


def _read(credential: str) -> tuple[str, str]:
    if credential.lower() in IDENTITIES:
        return 'identity', IDENTITIES[credential.lower()]
    if 'sig=' in credential:
        return 'sas', credential.lstrip('?')
    key = unquote(credential)
    try:
        good = bool(b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        good = False
    if not good:
        words = ', '.join(IDENTITIES.values())
        limit = f'is neither an account key (base64) nor a SAS token (sig=…) nor one of {words}'
        raise InvalidArgument('the credential', '**', limit)
    return 'key', key


def _of_string(text: str) -> tuple[str, str, str]:
    """Return credential, address and name of a connection string."""
    pairs = (part.partition('=') for part in text.split(';') if part.strip())
    facts: Mapping[str, str] = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if facts.get('usedevelopmentstorage', '').lower() == 'true':
        return EMULATOR[1], EMULATOR[0], ''
    name = facts.get('accountname', '')
    address = facts.get('queueendpoint', '')
    if not address and name:
        scheme = facts.get('defaultendpointsprotocol', 'https')
        address = f'{scheme}://{name}.queue.{facts.get("endpointsuffix", "core.windows.net")}'
    credential = facts.get('accountkey') or facts.get('sharedaccesssignature', '')
    if not address or not credential:
        needed = 'AccountName or QueueEndpoint, and AccountKey or SharedAccessSignature'
        raise InvalidArgument('connection_string', '**', f'lacks {needed}')
    return credential, address.rstrip('/'), name
