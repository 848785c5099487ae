"""What this process is made of, and what of it will not work with greenlets: `greenmq.doctor()`."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import greenmq
from greenmq import alias, runtime
from greenmq.alias.importers import importers, real_kombu
from greenmq.connection import Connection
from greenmq.exceptions import ChannelError, ConnectionError, InvalidArgument, KombuError
from greenmq_as_kombu import VARIABLE

__all__ = ('Diagnosis', 'Finding', 'doctor')

#: Packages whose versions matter, by what they are for.
PACKAGES = {
    'gevent': '', 'greenlet': '', 'amqp': '', 'redis': '', 'hiredis': 'hiredis', 'msgspec': 'fast',
    'msgpack': 'msgpack', 'PyYAML': 'yaml', 'brotli': 'brotli', 'zstandard': 'zstd',
    'prometheus-client': 'metrics', 'opentelemetry-api': 'otel', 'eventlet': 'eventlet',
}  # fmt: skip

#: Drivers that block the thread they are called in unless the process is patched before they are imported.
DRIVERS = ('boto3', 'pymongo', 'kazoo', 'azure', 'Pyro5')
#: Client libraries that bring their own sockets in C: patching never reaches them.
IN_C = {
    'psycopg2': 'psycogreen patches it', 'MySQLdb': 'PyMySQL is in Python', 'confluent_kafka': '',
    'pylibmc': 'pymemcache is in Python', 'librabbitmq': 'greenmq speaks AMQP itself',
}  # fmt: skip

OK, NOTE, BAD = 'ok', 'note', 'bad'


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about (str): a word.
        verdict (str): 'ok', 'note' (worth knowing) or 'bad' (will not work).
        text (str): one line.
    """

    about: str
    verdict: str
    text: str

    def __str__(self) -> str:
        return f'{self.verdict:<5}{self.about:<10}{self.text}'


@dataclass(frozen=True)
class Diagnosis:
    """All findings; true if nothing is bad."""

    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return all(finding.verdict != BAD for finding in self.findings)

    def __str__(self) -> str:
        return '\n'.join(map(str, self.findings))


def doctor(broker: str | None = None, timeout: float = 5.0) -> Diagnosis:
    """Look at versions, at what is monkey patched, at drivers that would block, and at a broker.

    Arguments:
        broker (str): URL; None looks at none.
        timeout (float): seconds for reaching it.
    Returns:
        Diagnosis: its text is for people, its truth for programs.
    Switches: only if a broker is looked at.
    """
    findings = [*_versions(), _alias(), _patching(), *_process(), *_drivers()]
    if broker is not None:
        findings.append(_broker(broker, timeout))
    return Diagnosis(tuple(findings))


def _versions() -> list[Finding]:
    python = f'{platform.python_implementation()} {platform.python_version()} on {platform.system()}'
    found, missing = [], []
    for package, extra in PACKAGES.items():
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            missing.append(f'{package} (extra {extra})' if extra else package)
    findings = [Finding('versions', OK, f'greenmq {greenmq.__version__}, {python}, {", ".join(found)}')]
    if missing:
        findings.append(Finding('versions', NOTE, f'not installed: {", ".join(missing)}'))
    return findings


def _alias() -> Finding:
    """Whether greenmq stands in kombu's place, and by what; who holds the real kombu otherwise."""
    by = alias.door()
    if by is not None:
        text = f'greenmq stands in its place, by {by}; {len(alias.replaced())} modules replaced'
        return Finding('kombu', OK, text)
    if os.environ.get(VARIABLE, '') not in ('', '0'):
        text = f'{VARIABLE}={os.environ[VARIABLE]} is set, and kombu is kombu: see `greenmq kombu status`'
        return Finding('kombu', BAD, text)
    if real_kombu() is not None:
        text = f'kombu itself is loaded too, by {", ".join(importers()[:5]) or "no module that keeps it"}'
        return Finding('kombu', NOTE, text)
    return Finding('kombu', OK, 'greenmq does not stand in its place')


def _patching() -> Finding:
    patched = runtime.patched()
    if patched.by and not patched.all:
        parts = [name for name in ('socket', 'ssl', 'threading', 'select') if not getattr(patched, name)]
        text = f'{patched}; not patched: {", ".join(parts)}. greenmq works; drivers that use them block: '
        text += 'patch all'
        return Finding('patching', NOTE, text)
    if patched.when == 'after':
        text = f'{patched}. greenmq works; what was imported before may hold the originals: patch first'
        return Finding('patching', NOTE, text)
    return Finding('patching', OK, f'{patched}; hub: {runtime.name()}')


def _process() -> list[Finding]:
    forks = runtime.fork_epoch()
    return [
        _hub(),
        Finding('resolver', OK, "names are looked up in native threads, not by the hub's resolver"),
        Finding('fork', OK, f'forked {forks} times since the first use' if forks else 'not a forked child'),
    ]


def _hub() -> Finding:
    try:
        hub = runtime.hub_id()
    except (InvalidArgument, ImportError) as exc:
        return Finding('hub', BAD, str(exc))
    loop = type(getattr(hub, 'loop', hub))
    return Finding('hub', OK, f'{runtime.name()}, loop {loop.__module__}.{loop.__qualname__}')


def _drivers() -> list[Finding]:
    patched = runtime.patched()
    findings = []
    for driver in DRIVERS:
        if driver in sys.modules and not patched.covers(driver):
            text = f'{driver} blocks when it is called directly; greenmq calls it in native threads'
            findings.append(Finding('drivers', NOTE, text))
    for driver, instead in IN_C.items():
        if driver in sys.modules:
            text = f'{driver} waits in C, and stops all greenlets{f"; {instead}" if instead else ""}'
            findings.append(Finding('drivers', BAD, text))
    return findings or [Finding('drivers', OK, 'none is loaded that would block')]


def _broker(url: str, timeout: float) -> Finding:
    try:
        connection = Connection(url, connect_timeout=timeout)
        name = connection.as_uri()
        with connection:
            started = runtime.monotonic()
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=timeout)
            took = runtime.monotonic() - started
            return Finding('broker', OK, f'{name} answers: {server_name(connection)}, {1000 * took:.1f} ms')
    except (KombuError, ConnectionError, ChannelError, OSError, KeyError, ValueError, ImportError) as exc:
        # str() of a KeyError is the repr of its text.
        text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
        return Finding('broker', BAD, ' '.join(text.split()) or type(exc).__name__)


def server_name(connection: Any) -> str:
    """What an open connection's broker calls itself."""
    told = getattr(connection.connection, 'server_properties', None) or {}
    name = ' '.join(str(told[key]) for key in ('product', 'version') if key in told)
    return name or str(connection.transport.driver_type)
