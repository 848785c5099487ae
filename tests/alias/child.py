"""Programs in which greenmq stands in kombu's place: always processes of their own: here kombu is kombu."""

import os
import sys
import sysconfig
import textwrap

import pytest

from tests.support import process

PTH = 'greenmq-as-kombu.pth'


def python(program, *args, switch='1', options=(), seconds=30, **environment):
    """What a program prints, in a process of its own; `switch` is the variable's value, None: unset."""
    return process.run([sys.executable, *options, '-c', textwrap.dedent(program), *args], seconds,
                       env=environ(switch, **environment))


def environ(switch='1', **more):
    """An environment without our own switches, and with what is given."""
    ours = ('GREENMQ_AS', 'PYTHON')
    found = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if switch is not None:
        found['GREENMQ_AS_KOMBU'] = switch
    return {**found, **more}


def need_the_pth():
    """Fail where greenmq was installed before it had its .pth: `make` or pip puts that right."""
    if not os.path.exists(os.path.join(sysconfig.get_path('purelib'), PTH)):
        pytest.fail(f'no {PTH} in site-packages: install again with `pip install --editable .`')
