"""What may be set for an AMQP connection, and the values a connection works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq.transport.options import Option, seconds, tcp_options, truth, whole

__all__ = ['OPTIONS', 'Settings']

#: The smallest frame_max that may be proposed (frame-min-size of the specification).
FRAME_MIN = 4096


def frame_size(value: Any) -> int:
    """Convert to the size of a frame: 0 for no limit, or what the protocol allows.

    Raises:
        ValueError: negative, or smaller than AMQP's frame-min-size.
    """
    size = whole(value)
    if 0 < size < FRAME_MIN:
        raise ValueError(f'below {FRAME_MIN}, the least of AMQP')
    return size


OPTIONS: dict[str, Option] = {
    'confirm_publish': Option(truth, True, 'publish() returns when the broker has taken responsibility'),
    'operation_timeout': Option(seconds, 30.0, 'seconds that a declare, bind, consume, get … may take'),
    'write_timeout': Option(
        seconds, None, 'seconds in which the peer must take something; 2 heartbeats, or 30'
    ),
    'read_timeout': Option(seconds, None, 'accepted and ignored: reads have no limit but the heartbeat'),
    'out_buffer_bytes': Option(whole, 8 * 1024 * 1024, 'queued bytes above which publishes wait'),
    'max_waiting_bytes': Option(
        whole, 32 * 1024 * 1024, 'deliveries in memory above which unlimited consumers pause'
    ),
    'max_message_bytes': Option(whole, 512 * 1024 * 1024, 'largest message that is accepted from the broker'),
    'stale_ack': Option(str, 'drop', "'drop' or 'raise': settling a delivery of a lost connection"),
    'heartbeat_thread': Option(truth, False, 'a native thread beats while our own code keeps the hub busy'),
    'recover': Option(truth, True, 'reopen a lost connection, with its entities and consumers'),
    'recovery_interval': Option(seconds, 0.2, 'seconds that each retry of a recovery waits longer'),
    'recovery_interval_max': Option(seconds, 2.0, 'longest wait in seconds between retries of a recovery'),
    'frame_max': Option(frame_size, None, 'largest frame in bytes to propose'),
    'channel_max': Option(whole, None, 'most channels to propose'),
    'socket_settings': Option(tcp_options, None, 'TCP socket options: {optname: value}'),
    'login_response': Option(None, None, 'raw SASL response, with login_method'),
    'authentication': Option(None, None, 'amqp.sasl mechanisms'),
    'locale': Option(str, 'en_US', 'locale of the broker’s texts'),
    'on_blocked': Option(None, None, 'called with the reason when the broker refuses publishes'),
    'on_unblocked': Option(None, None, 'called when it takes them again'),
}


class Settings:
    """The options of one connection as attributes; each has the name of its option."""

    confirm_publish: bool
    operation_timeout: float
    write_timeout: float | None
    out_buffer_bytes: int
    max_waiting_bytes: int
    max_message_bytes: int
    stale_ack: str
    heartbeat_thread: bool
    recover: bool
    recovery_interval: float
    recovery_interval_max: float
    publish_timeout: float | None
    close_timeout: float
    connect_timeout: float
    default_prefetch: int

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    @property
    def raise_stale(self) -> bool:
        return self.stale_ack == 'raise'
