"""An HTTP proxy to stand between a client and its server: it counts calls by operation, and breaks them."""
from __future__ import annotations

from tests.support.proxy import Behind


class HTTPProxy(Behind):
    """Listens on `port` of 127.0.0.1 and forwards to `upstream`, a port or (host, port).

    An operation is the last word of `X-Amz-Target`, the `Action` of a form, or "GET /path?names&of&query".
    `operation` of a rule is a regular expression that is searched in that; `skip` lets so many pass first,
    `times` is how often it holds (None: always), `chance` for how many of those (0.0 to 1.0). The first rule
    that fits is applied. All of them hold until `heal()`.

    =========================== ====================================================================
    `answer(op, status, body)`  answered here; the server never sees it
    `delay(op, seconds)`        forwarded that much later
    `late(op, seconds)`         forwarded at once, answered that much later
    `hang(op)`                  neither forwarded nor answered
    `cut_before(op)`            the connection ends, the server never sees it
    `cut_after(op)`             the server did it, the client does not learn so
    `cut_middle(op)`            half of the answer
    `rewrite(op, json)`         keys of a JSON answer are replaced
    `cut()`                     all connections, now
    =========================== ====================================================================
    """

    def __init__(self, upstream):
        super().__init__('http_proxy_process', upstream)

    def _tell(self, what, **values):
        return self._ask(what=what, **values)

    def _rule(self, do, operation, where, **values):
        self._tell('rule', do=do, operation=operation, **where, **values)

    def answer(self, operation, status, body='', headers=None, **where):
        self._rule('answer', operation, where, status=status, body=body, headers=headers or {})

    def delay(self, operation, seconds, **where):
        self._rule('delay', operation, where, seconds=seconds)

    def late(self, operation, seconds, **where):
        self._rule('late', operation, where, seconds=seconds)

    def hang(self, operation, **where):
        self._rule('hang', operation, where)

    def cut_before(self, operation, **where):
        self._rule('cut_before', operation, where)

    def cut_after(self, operation, **where):
        self._rule('cut_after', operation, where)

    def cut_middle(self, operation, **where):
        self._rule('cut_middle', operation, where)

    def rewrite(self, operation, values, **where):
        self._rule('rewrite', operation, where, json=values)

    def cut(self):
        self._tell('cut')

    def heal(self):
        self._tell('heal')

    def reset(self):
        """Begin to count anew."""
        self._tell('reset')

    @property
    def counts(self):
        """Requests by operation."""
        return self._tell('count')['counts']

    @property
    def total(self):
        return sum(self.counts.values())

    @property
    def broken(self):
        """How many requests met a fault."""
        return self._tell('count')['broken']

    @property
    def connections(self):
        """How many were made since the start."""
        return self._tell('count')['connections']

    @property
    def log(self):
        """(operation, body) of the last 2,000 requests."""
        return [tuple(entry) for entry in self._tell('log')['log']]
