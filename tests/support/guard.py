"""What is watched round every test, on its runtime: time, errors of the hub, greenlets left over."""
from __future__ import annotations

from tests.support.green import RUNTIME

if RUNTIME == 'eventlet':
    from tests.support.guard_eventlet import GreenTimeout, HubErrors, Spawned, kill, limited, run_info, settle
else:
    from tests.support.guard_gevent import GreenTimeout, HubErrors, Spawned, kill, limited, run_info, settle

from tests.support.guard_common import describe

__all__ = ('GreenTimeout', 'HubErrors', 'Spawned', 'describe', 'kill', 'limited', 'run_info', 'settle')
