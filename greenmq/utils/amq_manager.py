"""RabbitMQ's management interface, through pyrabbit."""

from __future__ import annotations

from typing import Any

from greenmq.utils.imports import symbol_by_name

#: Port of the management interface where none is named.
DEFAULT_PORT = 15672


def get_manager(
    client: Any,
    hostname: str | None = None,
    port: int | None = None,
    userid: str | None = None,
    password: str | None = None,
) -> Any:
    """Return a `pyrabbit.Client` for the broker of a connection.

    Each argument defaults to the transport option of that name with `manager_` before it
    (`manager_hostname`, …), then to the connection's own (port: 15672).

    Arguments:
        client (Connection): whose broker.
    Raises:
        ImportError: pyrabbit is not installed.
    Switches: no. The client's own calls go through blocking sockets unless the process is patched.
    Source: kombu.utils.amq_manager.get_manager.
    """
    make = symbol_by_name('pyrabbit:Client')
    options = client.transport_options.get

    def first(given: Any, option: str, default: Any) -> Any:
        return given if given is not None else options(option, default)

    host = first(hostname, 'manager_hostname', client.hostname)
    number = first(port, 'manager_port', DEFAULT_PORT)
    return make(
        f'{host}:{number}',
        first(userid, 'manager_userid', client.userid),
        first(password, 'manager_password', client.password),
    )
