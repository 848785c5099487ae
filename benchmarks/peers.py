"""Who is compared: this tree's greenmq, and what a user would take instead, in an environment of its own."""
from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[1]
#: Made on demand, so that kombu is not in reach of greenmq's own tests.
BENCH_VENV = ROOT / '.bench-venv'
KOMBU = 'kombu>=5.4,<6'
#: kombu for every table, with what its transports need; the others for `benchmarks.clients`;
#: gevent, so that kombu can be patched; and what greenmq needs, so that both have the same parsers and
#: drivers.
PACKAGES = (KOMBU, 'amqp', 'pika', 'aio-pika', 'amqpstorm', 'redis', 'hiredis', 'packaging', 'gevent',
            'click', 'tqdm', 'sqlalchemy', 'boto3', 'azure-storage-queue', 'h11',
            'psycopg[binary]', 'pgmq', 'kazoo', 'pymongo', 'Pyro5')
IMPORTED = ('kombu, amqp, pika, aio_pika, amqpstorm, redis, hiredis, packaging, gevent, click, tqdm, '
            'sqlalchemy, boto3, azure.storage.queue, h11, psycopg, pgmq, '
            'kazoo, pymongo, Pyro5')
#: The C client comes as a program that is compiled here, if its headers are.
C_SOURCE = ROOT / 'benchmarks' / 'probes' / 'librabbitmq.c'


@dataclass(frozen=True)
class Peer:
    """One package under measurement and the interpreter that can import it."""

    package: str
    python: str
    #: What the tables call it, if not by its package.
    name: str = ''
    #: Run under `python -m gevent.monkey`.
    patched: bool = False
    #: Not Python: a program that takes the probe's arguments.
    program: str = ''

    @property
    def label(self) -> str:
        return self.name or self.package

    def command(self, probe: str) -> list[str]:
        """What runs a probe, but for its arguments."""
        if self.program:
            return [self.program]
        patch = ['-m', 'gevent.monkey', '--module'] if self.patched else ['-m']
        return [self.python, *patch, probe, self.package]

    def version(self) -> str:
        if self.program:
            return subprocess.run([self.program, '--version'], check=True, capture_output=True,
                                  text=True).stdout.strip()
        return _ask(self.python, f'import {self.package} as p; print(p.__version__)')


def pair(kombu_python: str | None = None) -> tuple[Peer, Peer]:
    """greenmq and kombu: kombu by that interpreter, or both by one of our own."""
    python = kombu_python or environment()
    if not _has(python, 'kombu'):
        raise SystemExit(f'{python} has no kombu')
    return Peer('greenmq', sys.executable if kombu_python else python), Peer('kombu', python)


def amqp_clients(wanted: Sequence[str] = ()) -> list[Peer]:
    """All that speak AMQP, or those of `wanted`: the C client only where it can be compiled."""
    python = environment()
    known = [Peer('greenmq', python), Peer('kombu', python),
             Peer('kombu', python, 'kombu patched', patched=True), Peer('amqp', python, 'py-amqp'),
             Peer('pika', python), Peer('aio_pika', python, 'aio-pika'), Peer('amqpstorm', python)]
    program = c_client()
    if program is not None:
        known.append(Peer('librabbitmq', '', 'librabbitmq (C)', program=program))
    if not wanted:
        return known
    names = {name: peer for peer in known for name in (peer.label, peer.package)}
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise SystemExit(f'no peer {", ".join(unknown)}; there are {", ".join(peer.label for peer in known)}')
    return [peer for peer in known if peer.label in wanted or peer.package in wanted]


def c_client() -> str | None:
    """The compiled C client; None without a compiler or librabbitmq's headers."""
    compiler = shutil.which('cc')
    if compiler is None:
        return None
    program = pathlib.Path(tempfile.gettempdir()) / f'greenmq-bench-librabbitmq-{C_SOURCE.stat().st_mtime_ns}'
    if not program.exists():
        done = subprocess.run([compiler, '-O2', '-o', str(program), str(C_SOURCE), '-lrabbitmq'],
                              capture_output=True, check=False)
        if done.returncode:
            return None
    return str(program)


def environment() -> str:
    """The interpreter of .bench-venv, made with all peers if one is missing there."""
    python = BENCH_VENV / 'bin' / 'python'
    if not (python.exists() and _has(str(python), IMPORTED)):
        print(f'making {BENCH_VENV.name} with {", ".join(PACKAGES)} …', file=sys.stderr)
        # What is there stays: another run may be using it.
        venv.create(BENCH_VENV, with_pip=True)
        subprocess.run([python, '-m', 'pip', 'install', '--quiet', *PACKAGES], check=True)
    return str(python)


def _has(python: str, packages: str) -> bool:
    done = subprocess.run([python, '-c', f'import {packages}'], capture_output=True, check=False)
    return done.returncode == 0


def _ask(python: str, code: str) -> str:
    done = subprocess.run([python, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
