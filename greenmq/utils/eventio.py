"""The words for readiness of a file descriptor. The waiting itself is the hub's: see `asynchronous.hub`."""

from __future__ import annotations

import errno

# The numbers are those of poll(2) on Linux, fixed here: they are flags of this interface on every platform.
POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL = 0x001, 0x004, 0x008, 0x010, 0x020

#: Ready to read.
READ = POLL_READ = POLLIN
#: Ready to write.
WRITE = POLL_WRITE = POLLOUT
#: Failed, or the other side is gone.
ERR = POLL_ERR = POLLERR | POLLHUP

#: Numbers of the errors which say that a descriptor was closed meanwhile.
SELECT_BAD_FD = {errno.EBADF}
