"""Deliveries that are not settled, how many more fit into the prefetch, and acks said in few words."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ('UNLIMITED', 'AckBuffer', 'DeliveryLedger')

Item = TypeVar('Item')

#: What `DeliveryLedger.free` answers when there is no prefetch limit: an int, so that min() works on it.
UNLIMITED = sys.maxsize


class DeliveryLedger(Generic[Item]):
    """The unsettled deliveries of one channel, by tag, in the order in which they came.

    Every operation costs O(1) a message, whatever is outstanding and in whatever order it is settled.
    """

    # OrderedDict and not dict: the first key of a dict is found by walking over all that was deleted before
    # it, so that settling from the front, which is what consumers do, would be quadratic (1 M: minutes).
    __slots__ = ('_items',)

    def __init__(self) -> None:
        self._items: OrderedDict[Hashable, Item] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, tag: object) -> bool:
        return tag in self._items

    def __repr__(self) -> str:
        return f'<DeliveryLedger: {len(self._items)} outstanding>'

    @property
    def outstanding(self) -> int:
        """How many deliveries are not settled."""
        return len(self._items)

    def add(self, tag: Hashable, item: Item) -> None:
        """Enter a delivery.

        Arguments:
            tag (Hashable): the broker's name for it, never used before in this epoch.
            item: whatever belongs to it.
        Raises:
            ValueError: the tag is outstanding already: two messages under one tag can't both be settled.
        """
        if tag in self._items:
            raise ValueError(f'delivery tag {tag!r} is outstanding already')
        self._items[tag] = item

    def get(self, tag: Hashable) -> Item | None:
        """Look at the item of a tag, None if that is not outstanding."""
        return self._items.get(tag)

    def pop(self, tag: Hashable) -> Item:
        """Settle one delivery: as `settle`, for the hot path.

        Returns:
            the item that was added with the tag.
        Raises:
            KeyError: the tag is not outstanding.
        """
        return self._items.pop(tag)

    def settle(self, tag: Hashable, multiple: bool = False) -> list[tuple[Hashable, Item]]:
        """Settle one delivery, or all up to one.

        Arguments:
            tag (Hashable): an outstanding tag. With `multiple`, the tag 0 means all that are outstanding.
            multiple (bool): also all that were added before it.
        Returns:
            list[tuple[tag, item]]: what was settled, oldest first.
        Raises:
            KeyError: the tag is not outstanding; nothing was settled.
        Source: AMQP 0-9-1 basic.ack, fields delivery-tag and multiple.
        """
        items = self._items
        if not multiple:
            return [(tag, items.pop(tag))]
        if tag not in items:
            if tag == 0:
                return self.drain()
            raise KeyError(tag)
        settled = []
        take = items.popitem
        while True:
            entry = take(last=False)
            settled.append(entry)
            if entry[0] == tag:
                return settled

    def oldest(self) -> Hashable | None:
        """Name the tag that has been out longest, None if there is none."""
        return next(iter(self._items), None)

    def items(self) -> list[tuple[Hashable, Item]]:
        """List what is outstanding, oldest first: a copy, safe to settle from while going over it."""
        return list(self._items.items())

    def drain(self) -> list[tuple[Hashable, Item]]:
        """Take everything out, oldest first: the epoch has ended, or all of it goes back to the queue."""
        everything = list(self._items.items())
        self._items.clear()
        return everything

    def free(self, prefetch: int) -> int:
        """Count how many more deliveries fit.

        Arguments:
            prefetch (int): the limit, in messages; 0 for none.
        Returns:
            int: 0 or more; `UNLIMITED` if there is no limit.
        """
        if not prefetch:
            return UNLIMITED
        return max(prefetch - len(self._items), 0)


class AckBuffer(Generic[Item]):
    """Acks that were given and not yet sent, put into as few basic.ack as can say them.

    Works on the ledger of its channel, whose tags must be integers that only grow (as AMQP numbers them). At
    a flush, all acked tags below the oldest one that is still out are one ``basic.ack(multiple)``; the others
    need one each.

    A reject must be written before the next flush, or a multiple ack between them takes its tag along.
    """

    # Nothing is kept per outstanding delivery, only per buffered ack: what is out is asked of the ledger,
    # where an acked tag is gone at once. So an ack is one pop and one append, and a flush is one pass over
    # the acks it sends.
    __slots__ = ('_acked', '_ledger')

    def __init__(self, ledger: DeliveryLedger[Item]) -> None:
        self._ledger = ledger
        self._acked: list[int] = []

    def __len__(self) -> int:
        return len(self._acked)

    def __repr__(self) -> str:
        return f'<AckBuffer: {len(self._acked)} to send, {len(self._ledger)} outstanding>'

    def ack(self, tag: int) -> Item:
        """Settle a delivery in the ledger and remember to tell the broker.

        Returns:
            the item that the ledger held for the tag.
        Raises:
            KeyError: the tag is not outstanding; nothing was buffered.
        """
        item = self._ledger._items.pop(tag)  # without the call of `pop`: this is on the way of every message
        self._acked.append(tag)
        return item

    def ack_multiple(self, tag: int) -> list[tuple[Hashable, Item]]:
        """Settle all deliveries up to `tag` (0: all) and remember to tell the broker.

        Returns:
            list[tuple[tag, item]]: what was settled, oldest first.
        Raises:
            KeyError: the tag is not outstanding; nothing was buffered.
        """
        settled = self._ledger.settle(tag, multiple=True)
        self._acked += [entry[0] for entry in settled]  # type: ignore[misc]
        return settled

    def flush(self) -> list[tuple[int, bool]]:
        """Take out what is to be sent.

        Returns:
            list[tuple[int, bool]]: (delivery tag, multiple) of each basic.ack, in the order to send them.
        """
        acked = self._acked
        if not acked:
            return []
        self._acked = []
        if len(acked) == 1:
            return [(acked[0], False)]
        oldest = self._ledger.oldest()
        if oldest is None:
            return [(max(acked), True)]
        below = [tag for tag in acked if tag < oldest]  # type: ignore[operator]
        if len(below) < 2:  # a multiple ack would say no more than a single one
            return [(tag, False) for tag in acked]
        frames = [(max(below), True)]
        if len(below) < len(acked):
            frames += [(tag, False) for tag in acked if tag > oldest]  # type: ignore[operator]
        return frames

    def clear(self) -> list[int]:
        """Forget the buffered acks: their epoch has ended, and the broker delivers those again (P36).

        Returns:
            list[int]: the tags that were acked and never sent.
        """
        acked, self._acked = self._acked, []
        return acked
