"""Routing keys of delayed messages; what the broker makes of them is in the contract of RabbitMQ."""

from __future__ import annotations

import pytest

from greenmq.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE, calculate_routing_key


def test_the_digits_of_the_delay_stand_before_the_key():
    assert calculate_routing_key(5, 'job') == '0.' * 25 + '1.0.1.job'


def test_a_task_that_is_retried_again_and_again_keeps_the_length_of_its_key():
    # Given the key under which a delayed task comes to its worker, which retries it under that key
    key = 'job.1.0'
    for seconds in (3, 7, 1, 60, 2**27):
        key = calculate_routing_key(seconds, key)
        digits = f'{seconds:0{MAX_NUMBER_OF_BITS_TO_USE}b}'
        assert key == f'{".".join(digits)}.job.1.0'


@pytest.mark.parametrize('countdown, key', [(0, 'job'), (2**28, 'job'), (1, '')])
def test_what_cannot_be_delayed_is_refused(countdown, key):
    with pytest.raises(ValueError):
        calculate_routing_key(countdown, key)
