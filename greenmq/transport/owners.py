"""Who uses a store: a lock that the kernel frees when its process dies, and a socket to be woken by.

An owner's file is locked by `lockf`, whose lock belongs to the process: it is free at the moment of a `kill
-9`, also when a forked child lives on, and it is never free by mistake, however long a process stands still.
The price is that closing *any* descriptor of such a file frees the lock of this process; so a process never
opens a file of its own a second time (`_own`).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterable
from json import dumps, loads
from os import path
from uuid import uuid4

from greenmq.exceptions import InvalidArgument

__all__ = ('Mark', 'check_local', 'gone', 'read_wake', 'wake')

#: Names of the owners that live in this process.
_own: set[str] = set()

_LONGEST_SOCKET_PATH = 100  # bytes; the system's limit is 108, and 104 elsewhere
_LARGEST_WAKE = 4096  # bytes of one datagram; more queues than fit are told as "all"

#: File systems on which locks and shared memory do not work between machines, or not at all.
_REMOTE = frozenset({
    'nfs', 'nfs4', 'cifs', 'smb3', 'smbfs', '9p', 'afs', 'ceph', 'glusterfs', 'fuse.glusterfs', 'fuse.sshfs',
    'fuse.s3fs', 'lustre', 'vboxsf', 'fuse.vmhgfs-fuse', 'ncpfs', 'ocfs2', 'gfs2', 'beegfs',
})  # fmt: skip


class Mark:
    """The mark of one owner: its lock and its socket, from `__init__` to `close`.

    Arguments:
        folder (str): where the marks of a store lie; made if it is not there.
        mode (int): permissions of a folder that is made.
        listens (bool): it has a socket; else it is a lock only.
    Attributes:
        name (str): of the owner, unique.
        socket_path (str): where it is woken.
        socket (_socket.socket): non-blocking, for datagrams.
    """

    __slots__ = ('_lock', '_path', 'name', 'socket', 'socket_path')

    def __init__(self, folder: str, mode: int = 0o700, listens: bool = True) -> None:
        os.makedirs(folder, mode, exist_ok=True)
        self.name = uuid4().hex
        self._path = path.join(folder, f'{self.name}.lock')
        _own.add(self.name)
        self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode & 0o666)
        self.socket_path = _socket_path(folder, self.name)
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.socket.setblocking(False)
            if listens:
                self.socket.bind(self.socket_path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take the mark away: nothing of its owner lives any more."""
        for each in (self.socket_path, self._path):
            try:
                os.unlink(each)
            except FileNotFoundError:
                pass  # somebody has cleaned up, or it was never made
        self.forget()
        _own.discard(self.name)

    def forget(self) -> None:
        """In a forked child: close the copies. The parent's lock and socket stay."""
        self.socket.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _socket_path(folder: str, name: str) -> str:
    here = path.join(folder, f'{name}.sock')
    if len(os.fsencode(here)) <= _LONGEST_SOCKET_PATH:
        return here
    near = os.environ.get('XDG_RUNTIME_DIR') or tempfile.gettempdir()
    return path.join(near, f'greenmq-{name}.sock')


def gone(folder: str, name: str) -> bool:
    """Tell whether an owner's process is dead, and if so remove what it left in the folder."""
    if name in _own:
        return False
    lock = path.join(folder, f'{name}.lock')
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    finally:
        os.close(descriptor)
    for each in (lock, _socket_path(folder, name)):
        try:
            os.unlink(each)
        except FileNotFoundError:
            pass  # another one swept at the same time
    return True


def wake(socket: _socket.socket, paths: Iterable[str], queues: Iterable[str], topology: bool) -> list[str]:
    """Tell other owners, without waiting, which queues got messages and whether bindings have changed.

    Returns:
        list[str]: those where nobody listens any more.
    """
    named = list(queues)
    text = dumps([named, topology]).encode()
    if len(text) > _LARGEST_WAKE:
        text = dumps([None, topology]).encode()
    dead: list[str] = []
    for each in paths:
        try:
            socket.sendto(text, _socket.MSG_DONTWAIT, each)
        except BlockingIOError:
            pass  # no undo needed: so much waits there that it will look in any case
        except OSError as exc:
            if exc.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise
            dead.append(each)
    return dead


def read_wake(socket: _socket.socket) -> tuple[set[str] | None, bool]:
    """Read all that was told, without waiting.

    Returns:
        tuple[set[str] | None, bool]: the queues, None for all; and whether bindings have changed.
    """
    queues: set[str] | None = set()
    topology = False
    while True:
        try:
            text = socket.recv(2 * _LARGEST_WAKE)
        except BlockingIOError:
            return queues, topology
        named, changed = loads(text)
        topology = topology or changed
        if named is None:
            queues = None
        elif queues is not None:
            queues.update(named)


def check_local(folder: str) -> None:
    """Refuse a folder on a file system that other machines share.

    Raises:
        InvalidArgument: naming the file system.
    """
    try:
        with open('/proc/self/mountinfo', encoding='utf-8', errors='replace') as lines:
            mounts = [line.split() for line in lines]
    except OSError:
        return  # another system: SQLite refuses what it cannot do
    real = path.realpath(folder)
    kind, longest = '', -1
    for fields in mounts:
        point = fields[4].replace('\\040', ' ')
        inside = real == point or real.startswith(point.rstrip('/') + '/')
        if inside and len(point) >= longest:
            kind, longest = fields[fields.index('-') + 1], len(point)
    if kind in _REMOTE:
        raise InvalidArgument('path', folder, f'is on a network file system ({kind}); a local disk is needed')
