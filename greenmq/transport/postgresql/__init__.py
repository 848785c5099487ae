"""PostgreSQL for greenlets: what the transports that keep their messages there share.

`connection.py` has psycopg's connection, whose waits are the runtime's; `pool.py` a few of them for one
session; `listener.py` the one that hears notifications, and says when it does not; `errors.py` what the
server's errors mean; `driver.py` what a driver does on any tables there.
"""
