"""The worker daemon: a ConsumerMixin as a process, or several, that starts, ends and shows itself.

`loading` finds the class, `serving` runs it in this process, `supervision` keeps several processes running,
`health` shows over HTTP what goes on, with `metrics` for Prometheus and `page` for people. The command line
is ``greenmq worker``.
"""
