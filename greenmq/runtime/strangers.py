"""What somebody speaks who answers where another protocol was expected: told by the first bytes."""

from __future__ import annotations

__all__ = ('speaks',)

# Beginnings, and whose they are. A TLS record has its kind, then the major version 3.
_BEGINNINGS = (
    (b'AMQP', 'AMQP'), (b'HTTP/', 'HTTP'), (b'SSH-', 'SSH'), (b'-ERR', 'the protocol of Redis'),
    (b'-NOAUTH', 'the protocol of Redis'), (b'-DENIED', 'the protocol of Redis'),
    (b'\x15\x03', 'TLS'), (b'\x16\x03', 'TLS'),
)  # fmt: skip


def speaks(data: bytes | bytearray) -> str:
    """Say what the other side speaks, as in "it speaks TLS"; '' if that cannot be told.

    Arguments:
        data (bytes): the first that it sent, some bytes at least.
    """
    for beginning, name in _BEGINNINGS:
        if data.startswith(beginning):
            return name
    return ''
