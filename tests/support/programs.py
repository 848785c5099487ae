"""Where a server's program is: of this system, or of a tree of Debian 13, which has what is current.

``GREENMQ_DEBIAN13``: such a tree, made by ``.ci/current``: RabbitMQ 4, Redis 8, Valkey 8. RabbitMQ runs in it
by ``chroot``, which takes root.
``GREENMQ_CURRENT``: ``redis`` or ``valkey``: every test that asks for a RabbitMQ or a Redis gets that of the
tree.
"""
from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from tests.support.process import need

CURRENT = os.environ.get('GREENMQ_CURRENT')

#: In a mount namespace of its own, so that nothing of it is left when the server is gone. The folder for
#: temporary files is the same inside and outside. Each exec keeps the process: a kill of our child is a kill
#: of the server.
ENTER = '''
tree=$1 shared=$2 && shift 2 && mkdir -p "$tree$shared" && mount --bind "$shared" "$tree$shared" &&
mount --bind /proc "$tree/proc" && mount --bind /dev "$tree/dev" && exec chroot "$tree" "$@"
'''
LIBRARIES = ('usr/lib/x86_64-linux-gnu', 'usr/lib/aarch64-linux-gnu')


def tree():
    """The folder of the tree; skips the test where there is none."""
    found = os.environ.get('GREENMQ_DEBIAN13')
    if not found:
        pytest.skip('GREENMQ_DEBIAN13 names no tree of Debian 13')
    return found


def redis_server():
    """The command that is a Redis server, to which its settings are added."""
    if not CURRENT:
        return need('redis-server')
    root = tree()
    loader, = [path for name in ('ld-linux-x86-64.so.2', 'ld-linux-aarch64.so.1')
               for path in (f'{root}/usr/lib64/{name}', f'{root}/usr/lib/{name}') if os.path.exists(path)][:1]
    libraries = ':'.join(f'{root}/{folder}' for folder in LIBRARIES)
    return [loader, '--library-path', libraries, f'{root}/usr/bin/{CURRENT}-server']


def inside(root, *command):
    """The command that runs `command` in the tree `root`; without a tree, `command` itself."""
    if root is None:
        return list(command)
    if os.geteuid() or not shutil.which('unshare'):
        pytest.skip('to run in a tree of Debian 13 takes root, and unshare')
    return ['unshare', '--mount', 'sh', '-c', ENTER, 'enter', root, tempfile.gettempdir(), *command]
