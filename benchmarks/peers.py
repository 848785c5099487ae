"""The two that are compared: this tree's greenmq, and kombu in an environment of its own."""
from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import venv
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[1]
#: Made on demand, so that kombu is not in reach of greenmq's own tests.
BENCH_VENV = ROOT / '.bench-venv'
KOMBU = 'kombu>=5.4,<6'


@dataclass(frozen=True)
class Peer:
    """One package under measurement and the interpreter that can import it."""

    package: str
    python: str

    def version(self) -> str:
        return _ask(self.python, f'import {self.package}; print({self.package}.__version__)')


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--kombu-python', metavar='PATH', default=None,
                        help='an interpreter that has kombu; without it one is made in .bench-venv')


def pair(options: argparse.Namespace) -> tuple[Peer, Peer]:
    """greenmq and kombu."""
    python = options.kombu_python or _made_environment()
    if not _has_kombu(python):
        raise SystemExit(f'{python} has no kombu')
    return Peer('greenmq', sys.executable), Peer('kombu', python)


def _has_kombu(python: str) -> bool:
    return subprocess.run([python, '-c', 'import kombu'], capture_output=True, check=False).returncode == 0


def _made_environment() -> str:
    python = BENCH_VENV / 'bin' / 'python'
    if not (python.exists() and _has_kombu(str(python))):
        print(f'making {BENCH_VENV.name} with {KOMBU} …', file=sys.stderr)
        venv.create(BENCH_VENV, with_pip=True, clear=True)
        subprocess.run([python, '-m', 'pip', 'install', '--quiet', KOMBU], check=True)
    return str(python)


def _ask(python: str, code: str) -> str:
    done = subprocess.run([python, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
