"""One line a host and outage in the log, however many connections a process has to it."""

import logging

import pytest

from greenmq import log


@pytest.fixture(autouse=True)
def at(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(log, '_outages', {})
    return now


def test_twenty_connections_tell_once_and_again_each_minute(at):
    levels = [log.outage_level('recovery', 'amqp://a') for _ in range(20)]
    assert levels == [logging.WARNING] + [logging.DEBUG] * 19
    at[0] += log.OUTAGE_TOLD_EVERY
    levels = [log.outage_level('recovery', 'amqp://a') for _ in range(3)]
    assert levels == [logging.WARNING] + [logging.DEBUG] * 2


def test_hosts_and_kinds_are_told_apart():
    assert log.outage_level('lost', 'amqp://a') == log.outage_level('recovery', 'amqp://a') == logging.WARNING
    assert log.outage_level('lost', 'amqp://b') == logging.WARNING


def test_the_next_outage_is_told_at_once():
    log.outage_level('lost', 'amqp://a')
    log.outage_level('lost', 'amqp://b')
    log.outage_over('amqp://a')
    assert log.outage_level('lost', 'amqp://a') == logging.WARNING
    assert log.outage_level('lost', 'amqp://b') == logging.DEBUG
