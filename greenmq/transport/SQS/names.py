"""How queues are called at SQS, and where an URL of the transport leads to."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from greenmq.exceptions import InvalidArgument

__all__ = ('Where', 'canonical', 'is_fifo', 'region_of', 'where')

FIFO = '.fifo'
LONGEST = 80

_FORBIDDEN = re.compile(r'[^A-Za-z0-9_-]')
_REGIONAL = re.compile(
    r'(?:^|\.)(?:sqs|sns)(?:-fips)?\.(?P<a>[a-z]{2}(?:-[a-z]+)+-\d)\.|^(?P<b>[a-z]{2}(?:-[a-z]+)+-\d)\.queue\.'
)


def is_fifo(name: str) -> bool:
    """Is it the name, or the URL, of a FIFO queue or topic?"""
    return name.endswith(FIFO)


def canonical(name: str, prefix: str = '', what: str = 'queue') -> str:
    """Return what a queue or topic is called at the service.

    A dot becomes '-', any other character that the service forbids '_'; a final '.fifo' stays.

    Raises:
        InvalidArgument: longer than 80 characters.
    """
    whole = prefix + name
    stem, suffix = (whole[: -len(FIFO)], FIFO) if is_fifo(whole) else (whole, '')
    found = _FORBIDDEN.sub('_', stem.replace('.', '-')) + suffix
    if len(found) > LONGEST:
        raise InvalidArgument(what, whole, f'is {len(found)} characters long, at most {LONGEST} allowed')
    return found


class Where(NamedTuple):
    """Where calls go.

    Attributes:
        endpoint (str | None): URL of the service; None for Amazon's own of the region.
        region (str | None): None for what the environment says.
    """

    endpoint: str | None
    region: str | None


def region_of(host: str) -> str | None:
    """Return the region in the name of a host of Amazon's, e.g. sqs.eu-west-1.amazonaws.com."""
    found = _REGIONAL.search(host)
    return (found['a'] or found['b']) if found else None


def where(host: str, port: int | None, region: str | None, is_secure: bool | None) -> Where:
    """Return where an URL leads to.

    Arguments:
        host (str): '' for Amazon's own.
        is_secure (bool | None): https or http; None for http on the loopback only.
    Raises:
        InvalidArgument: the host belongs to another region.
    """
    if not host:
        return Where(None, region)
    if '://' in host:
        parts = urlsplit(host)
        host, port = parts.hostname or '', parts.port or port
        is_secure = parts.scheme == 'https' if is_secure is None else is_secure
    theirs = region_of(host)
    if region and theirs and theirs != region:
        raise InvalidArgument('region', region, f'is not the region of {host}')
    if is_secure is None:
        is_secure = not (host in ('localhost', '::1') or host.startswith('127.'))
    shown = f'[{host}]' if ':' in host else host
    address = f'{shown}:{port}' if port else shown
    return Where(f'{"https" if is_secure else "http"}://{address}', region or theirs)
