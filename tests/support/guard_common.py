"""What the guards of all runtimes share."""
from __future__ import annotations

import traceback
import warnings

#: Seconds that greenlets get to end after their test: a call that its driver does not end in time takes half
#: a second, and on a busy machine everything takes longer.
GRACE = 3.0


class HubErrorList(list):
    """(context, exception) of each error that reached a hub.

    A test that provokes such an error takes it out: `hub_errors.take(ZeroDivisionError)`.
    """

    def take(self, kind):
        """Remove and return the errors of this class; at least one must be there."""
        taken = [exc for _, exc in self if isinstance(exc, kind)]
        assert taken, f'no {kind.__name__} reached the hub, only {list(self)}'
        self[:] = [(context, exc) for context, exc in self if not isinstance(exc, kind)]
        return taken

    def report(self):
        return '\n'.join(
            f'{context}:\n' + ''.join(traceback.format_exception(exc)) for context, exc in self)


def shown(picture):
    """The text that `picture` gives, or why it gives none: no strange `repr` may keep a limit from coming."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return picture()
    except Exception:
        return f'where the greenlets stood could not be shown:\n{traceback.format_exc()}'


def describe(greenlets):
    """One block of text a greenlet: its name and where it stands."""
    blocks = []
    for glet in greenlets:
        frame = glet.gr_frame
        stack = ''.join(traceback.format_stack(frame)) if frame is not None else '  (not started)\n'
        blocks.append(f'{getattr(glet, "name", "")} {glet!r}\n{stack}')
    return '\n'.join(blocks)
