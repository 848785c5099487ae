"""The server-side scripts, as package data: found, joined and named by their digest."""

from __future__ import annotations

import hashlib
import pkgutil

__all__ = ('ADOPT', 'BIND', 'DELAY', 'EXPIRE', 'FETCH', 'PUSH', 'RENEW', 'SETTLE', 'SWEEP', 'USE', 'Script')


class Script:
    """One script: its text is read when it is first used.

    Arguments:
        name (str): of the file, without ``.lua``.
        common (bool): does it stand on `common.lua`?
    """

    __slots__ = ('_digest', '_text', 'common', 'name')

    def __init__(self, name: str, common: bool = False) -> None:
        self.name = name
        self.common = common
        self._text = self._digest = ''

    @property
    def text(self) -> str:
        """What the server runs."""
        if not self._text:
            names = ('common', self.name) if self.common else (self.name,)
            self._text = '\n'.join(_read(name) for name in names)
        return self._text

    @property
    def digest(self) -> str:
        """What EVALSHA calls it by."""
        if not self._digest:
            self._digest = hashlib.sha1(self.text.encode()).hexdigest()
        return self._digest

    def __repr__(self) -> str:
        return f'<Script {self.name}>'


def _read(name: str) -> str:
    data = pkgutil.get_data(__name__, f'{name}.lua')
    assert data is not None
    return data.decode()


FETCH = Script('fetch')
SETTLE = Script('settle', common=True)
SWEEP = Script('sweep', common=True)
ADOPT = Script('adopt', common=True)
RENEW = Script('renew')
BIND = Script('bind')
DELAY = Script('delay')
USE = Script('use')
EXPIRE = Script('expire')
PUSH = Script('push')
