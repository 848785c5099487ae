"""Compressions: name → (compress, content type); content type → decompress, within a limit of memory.

==========  ============================  ===================  ================================
names       content type                  needs                written as
==========  ============================  ===================  ================================
gzip zlib   application/x-gzip                                 a zlib stream, as kombu does
bzip2 bzip  application/x-bz2
lzma xz     application/x-lzma                                 an xz container
brotli      application/x-brotli          greenmq[brotli]
zstd        application/zstd              greenmq[zstd]
==========  ============================  ===================  ================================

Compressing does not switch: a large body keeps the hub from everything else meanwhile. Decompressing lets
other greenlets run whenever it has worked for 20 ms: a stranger's body does not keep the hub for seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

from greenmq import runtime
from greenmq.exceptions import (
    DecodeError,
    DecompressionLimit,
    InvalidArgument,
    KombuError,
    also,
)
from greenmq.utils.encoding import ensure_bytes

__all__ = ('compress', 'decompress', 'encoders', 'get_decoder', 'get_encoder', 'register')

#: What a body may grow to when `decompress` is not told otherwise: bytes. Larger than what brokers are good
#: for, and small enough that many greenlets can do it at once.
max_decoded_bytes = 64 * 1024 * 1024

Encoder = Callable[[bytes], bytes]
#: (body, most bytes to return) → bytes. Raises `_TooLarge` instead of returning more.
BoundedDecoder = Callable[[bytes, float], bytes]

_aliases: dict[str, str] = {}
_encoders: dict[str, Encoder] = {}
_decoders: dict[str, Callable[[bytes], bytes]] = {}
# Content types whose decoder stops at a limit by itself.
_bounded: dict[str, BoundedDecoder] = {}
# Names and content types of packages that are not installed, with the extra that brings them.
_absent: dict[str, str] = {}


class _TooLarge(Exception):
    """The body would grow beyond the limit."""


def register(
    encoder: Callable[[bytes], bytes],
    decoder: Callable[[bytes], bytes],
    content_type: str,
    aliases: Iterable[str] | None = None,
) -> None:
    """Make a compression known in this process; one of the same content type is replaced.

    Arguments:
        encoder (Callable): bytes → compressed bytes.
        decoder (Callable): the way back. It can't be stopped at a limit: what is too large is refused only
            when it has been decompressed.
        content_type (str): stands in the message's `compression` header.
        aliases (Iterable[str]): names to ask for it by.
    Source: kombu.compression.register.
    """
    _bounded.pop(content_type, None)
    _encoders[content_type] = encoder
    _decoders[content_type] = decoder
    for name in (content_type, *(aliases or ())):
        _absent.pop(name, None)
    _aliases.update((name, content_type) for name in aliases or ())


def encoders() -> list[str]:
    """Return the content types of all compressions known.

    Source: kombu.compression.encoders.
    """
    return list(_encoders)


def get_encoder(t: Any) -> tuple[Encoder, str]:
    """Return (compress, content type) of a compression, by name or content type.

    Raises:
        InvalidArgument: there is no such compression, or its package is not installed.
    Source: kombu.compression.get_encoder; differs: the KeyError is a typed error as well.
    """
    content_type = _aliases.get(t, t)
    encoder = _encoders.get(content_type)
    if encoder is None:
        raise also(InvalidArgument, KeyError)('compression', t, _unknown(t))
    return encoder, content_type


def get_decoder(t: Any) -> Callable[[bytes], bytes]:
    """Return the decompressing function of a compression, by name or content type.

    Raises:
        DecodeError: there is no such compression, or its package is not installed.
    Source: kombu.compression.get_decoder; differs: the KeyError is a typed error as well.
    """
    decoder = _decoders.get(_aliases.get(t, t))
    if decoder is None:
        raise also(DecodeError, KeyError)(f'compression {_unknown(t)}: {t!r}')
    return decoder


def _unknown(t: Any) -> str:
    if t in _absent:
        extra = _absent[t]
        how = f' (pip install greenmq[{extra}])' if extra else ': this Python was built without it'
        return f'needs a module that is not installed{how}'
    return f'is not known (known are {", ".join([*_aliases, *_encoders])})'


def compress(body: str | bytes, content_type: str) -> tuple[bytes, str]:
    """Compress a body.

    Arguments:
        body (str or bytes): text is encoded as UTF-8.
        content_type (str): the compression, by name or content type.
    Returns:
        (bytes, str): the compressed body, and the content type for the `compression` header.
    Raises:
        InvalidArgument: there is no such compression, or its package is not installed.
    Example:
        >>> small, content_type = compress('a' * 1000, 'gzip')
        >>> len(small) < 100, decompress(small, content_type) == b'a' * 1000
        (True, True)

    Source: kombu.compression.compress.
    """
    encoder, content_type = get_encoder(content_type)
    return encoder(ensure_bytes(body)), content_type


def decompress(body: str | bytes, content_type: str, limit: float | None = None) -> bytes:
    """Decompress a body, holding no more than about `limit` bytes of it.

    Arguments:
        content_type (str): the compression, by name or content type.
        limit (int): bytes the body may grow to; None is `max_decoded_bytes`, inf is no limit.
    Raises:
        DecompressionLimit: it would grow beyond the limit (a DecodeError).
        DecodeError: the body is damaged or cut short, or the compression is not known; what the decompressor
            raised (zlib.error, say) catches it as well.
    Switches: yes, each time that 20 ms went into it, but not in a callback of the hub. Killed there: nothing
        is left behind.
    Source: kombu.compression.decompress; differs: the limit, and one type of error for all compressions.
    """
    most = max_decoded_bytes if limit is None else limit
    decoder = get_decoder(content_type)
    bounded = _bounded.get(_aliases.get(content_type, content_type))
    try:
        if bounded is not None:
            return bounded(ensure_bytes(body), most)
        decoded = decoder(ensure_bytes(body))
    except _TooLarge:
        raise _over(content_type, most) from None
    except KombuError:
        raise
    except Exception as exc:
        failure = also(DecodeError, type(exc))
        raise failure(f'cannot decompress {len(body)} bytes of {content_type}: {exc}') from exc
    if len(decoded) > most:
        raise _over(content_type, most)
    return decoded


def _over(content_type: str, most: float) -> DecompressionLimit:
    return DecompressionLimit(f'a body of {content_type}', int(most))


# ------------------------------------------------------------------ decoders that stop at a limit


#: Most that a decoder may return at a time: it works for a few milliseconds between two turns of the others.
_PIECE = 1024 * 1024
#: Seconds of work after which the other greenlets get a turn.
_TURN = 0.02


def _room(most: float, size: int) -> int:
    # One byte beyond the limit tells "too large" from "just fits".
    return int(min(_PIECE, most - size + 1))


class _Turns:
    # Gives the other greenlets of this thread their turn between two steps of long work.

    def __init__(self) -> None:
        self._since = runtime.monotonic()

    def step(self) -> None:
        if runtime.monotonic() - self._since > _TURN and not runtime.in_hub():
            # A timer, not 0: gevent would run what is ready up to 50 times before it looks at a socket.
            runtime.sleep(1e-4)
            self._since = runtime.monotonic()


#: Input given to a decoder at a time: what it copies of the rest when its stream ends.
_STEP = 64 * 1024
#: Streams that may follow one another in a body. Each costs a decoder, however little it holds.
MAX_STREAMS = 1000


def _collect(make: Callable[[], Any], body: bytes, most: float, cut: type[Exception]) -> bytes:
    # `cut`: what the module itself raises for a body that ends too early.
    # Streams may follow one another, as in files that were put together; each has to be whole. Given all
    # that follows, each decoder would copy it: time by the square of the length, for no output at all.
    parts: list[bytes] = []
    view = memoryview(body)
    position = size = streams = 0
    turns = _Turns()
    while position < len(view):
        streams += 1
        if streams > MAX_STREAMS:
            raise ValueError(f'it has more than {MAX_STREAMS} streams')
        stream = make()
        while not stream.eof:
            given = view[position : position + _STEP] if stream.needs_input else b''
            position += len(given)
            part = stream.decompress(given, _room(most, size))
            size += len(part)
            if size > most:
                raise _TooLarge
            parts.append(part)
            turns.step()
            if not part and not given and stream.needs_input and not stream.eof:
                raise cut('it is cut short')
        position -= len(stream.unused_data)
    if not parts:
        raise cut('it is empty')
    return b''.join(parts)


class _ZlibStream:
    # zlib's decompressor with the interface of those of bz2 and lzma.

    def __init__(self) -> None:
        import zlib

        # 32: takes a gzip header too, which is what other languages' clients call gzip.
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes | memoryview, room: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail or data, room)


def _zlib_decompress(body: bytes, most: float = float('inf')) -> bytes:
    import zlib

    return _collect(_ZlibStream, body, most, zlib.error)


def _bz2_decompress(body: bytes, most: float = float('inf')) -> bytes:
    import bz2

    return _collect(bz2.BZ2Decompressor, body, most, ValueError)


#: A header of a few bytes may ask for a dictionary of gigabytes; the highest preset needs 65 MiB.
_LZMA_MEMORY = 128 * 1024 * 1024


def _lzma_decompress(body: bytes, most: float = float('inf')) -> bytes:
    import lzma

    return _collect(
        lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), body, most, lzma.LZMAError
    )


def _brotli_decompress(body: bytes, most: float = float('inf')) -> bytes:
    import brotli

    stream = brotli.Decompressor()
    parts: list[bytes] = []
    size = 0
    turns = _Turns()
    while not stream.is_finished():
        # The limit is counted in whole blocks by brotli; small ones keep the overshoot small.
        part = stream.process(body, output_buffer_limit=_room(most, size))
        size += len(part)
        if size > most:
            raise _TooLarge
        parts.append(part)
        turns.step()
        if not part and stream.can_accept_more_data() and not stream.is_finished():
            raise brotli.error('it is cut short')
        body = b''
    return b''.join(parts)


#: Input given to zstd at a time. Its decoder takes no limit; four bytes make at most 128 KiB, so this makes 2
#: MiB.
_ZSTD_STEP = 64


def _zstd_decompress(body: bytes, most: float = float('inf')) -> bytes:
    import zstandard

    stream = zstandard.ZstdDecompressor().decompressobj()
    parts: list[bytes] = []
    size = 0
    turns = _Turns()
    for start in range(0, len(body), _ZSTD_STEP):
        part = stream.decompress(body[start : start + _ZSTD_STEP])
        size += len(part)
        if size > most:
            raise _TooLarge
        parts.append(part)
        turns.step()
        if stream.eof:
            return b''.join(parts)
    raise zstandard.ZstdError('it is cut short')


# ------------------------------------------------------------------ what comes with greenmq


def _zlib_compress(body: bytes) -> bytes:
    import zlib

    return zlib.compress(body)


def _bz2_compress(body: bytes) -> bytes:
    import bz2

    return bz2.compress(body)


def _lzma_compress(body: bytes) -> bytes:
    import lzma

    return lzma.compress(body)


def _brotli_compress(body: bytes) -> bytes:
    import brotli

    return bytes(brotli.compress(body))


def _zstd_compress(body: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(body)


def _register_ours(
    module: str,
    encoder: Encoder,
    decoder: BoundedDecoder,
    content_type: str,
    names: tuple[str, ...],
    extra: str,
) -> None:
    # Looked for, not imported: most programs never compress.
    if find_spec(module) is None:
        _absent.update(dict.fromkeys((*names, content_type), extra))
        return
    register(encoder, lambda body: decompress(body, content_type), content_type, names)
    _bounded[content_type] = decoder


_register_ours('zlib', _zlib_compress, _zlib_decompress, 'application/x-gzip', ('gzip', 'zlib'), '')
_register_ours('bz2', _bz2_compress, _bz2_decompress, 'application/x-bz2', ('bzip2', 'bzip'), '')
_register_ours('lzma', _lzma_compress, _lzma_decompress, 'application/x-lzma', ('lzma', 'xz'), '')
_register_ours('brotli', _brotli_compress, _brotli_decompress, 'application/x-brotli', ('brotli',), 'brotli')
_register_ours(
    'zstandard', _zstd_compress, _zstd_decompress, 'application/zstd', ('zstd', 'zstandard'), 'zstd'
)
