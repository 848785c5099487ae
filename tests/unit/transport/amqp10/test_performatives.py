"""Transfers are read in a shorter way where they are as usual: to the same, whatever a peer sends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.transport.amqp10.errors import Malformed
from greenmq.transport.amqp10.performatives import Accepted, Transfer, pack, unpack

pytestmark = pytest.mark.once

numbers = st.integers(0, 2 ** 32 - 1)
small = st.integers(0, 300)
maybe = st.none() | st.booleans()
choice = st.none() | st.integers(0, 1)
transfers = st.builds(
    Transfer, small | numbers, st.none() | small | numbers, st.none() | st.binary(max_size=40),
    st.none() | small, maybe, maybe, choice, st.sampled_from([None, Accepted()]), maybe, maybe, maybe)


def outcome(data, at):
    try:
        body, end = unpack(data, at)
    except Malformed:
        return 'malformed'
    return body, type(body), [type(field) for field in body], end - at


def alike(data):
    # What does not begin a frame is read field by field.
    found = outcome(data, 0)
    assert found == outcome(b'\0' + data, 1)
    return found


@given(transfers, st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_is_whole(transfer, payload):
    packed = pack(transfer)
    for _ in range(2):  # what recurs is remembered
        assert alike(packed + payload)[::3] == (transfer, len(packed))


@given(transfers, st.data())
@settings(max_examples=400, deadline=None)
def test_what_is_changed_or_cut(transfer, data):
    packed = bytearray(pack(transfer) + bytes(20))
    for _ in range(data.draw(st.integers(0, 3))):
        packed[data.draw(st.integers(4, len(packed) - 1))] = data.draw(st.sampled_from(
            [0, 1, 2, 3, 5, 0x40, 0x41, 0x43, 0x44, 0x45, 0x50, 0x52, 0x53, 0x70, 0xA0, 0xA1, 0xFF]))
    alike(bytes(packed[: data.draw(st.integers(0, len(packed)))]))
