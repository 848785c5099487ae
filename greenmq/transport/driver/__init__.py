"""The base of transports: an author writes one `Driver`, and this package makes a broker of it.

`contract` says what a driver is; the page "Write a transport" of the manual shows a whole one. Each part
of the base is an object with public names:

* `session`: one driver over all its lives, and what the connections of a hub to one URL share;
* `router`: exchanges, bindings, dead letters; `publisher`: deadlines, and concurrent publishes gathered;
* `intake`, `poller`: who fetches, how much; `arrival`: what is looked at before a callback sees a message;
* `settler`: settlements in batches; `leases`: renewals by age; `errors`: the seam for a client's errors;
* `looking`: pauses between looks that cost; `strangers`: messages of others; `unseen`: what went back
  that no callback saw;
* `books`: what one channel consumes and holds; `channel`, `transport`: kombu's API on top.
"""

from __future__ import annotations

from greenmq.transport.driver.channel import Channel
from greenmq.transport.driver.contract import (
    DEAD,
    REQUEUE,
    UNSEEN,
    Binding,
    Driver,
    Fault,
    Place,
    Put,
    Taken,
)
from greenmq.transport.driver.transport import Transport

__all__ = (
    'DEAD', 'REQUEUE', 'UNSEEN', 'Binding', 'Channel', 'Driver', 'Fault', 'Place', 'Put', 'Taken',
    'Transport',
)  # fmt: skip
