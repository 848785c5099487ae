"""One line a host and outage in the log, however many connections a process has to it."""

import logging

import pytest

from greenmq import log


@pytest.fixture(autouse=True)
def at(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(log, '_outages', {})
    monkeypatch.setattr(log, '_ended', {})
    return now


def test_twenty_connections_tell_once_and_again_each_minute(at):
    levels = [log.outage_level('recovery', 'a:1') for _ in range(20)]
    assert levels == [logging.WARNING] + [logging.DEBUG] * 19
    at[0] += log.OUTAGE_TOLD_EVERY
    levels = [log.outage_level('recovery', 'a:1') for _ in range(3)]
    assert levels == [logging.WARNING] + [logging.DEBUG] * 2


def test_hosts_are_told_apart_and_who_notices_is_not():
    assert log.outage_level('lost', 'a:1//') == logging.WARNING
    assert log.outage_level('recovery', 'a:1/0') == log.outage_level('connect', 'a:1') == logging.DEBUG
    assert log.outage_level('lost', 'b:1') == log.outage_level('lost', '/run/a.sock') == logging.WARNING


def test_the_next_outage_is_told_at_once(at):
    log.outage_level('lost', 'a:1')
    log.outage_level('lost', 'b:1')
    log.outage_over('a:1')
    at[0] += log.OUTAGE_NOTICED_LATE
    assert log.outage_level('lost', 'a:1') == logging.WARNING
    assert log.outage_level('lost', 'b:1') == logging.DEBUG


def test_the_end_is_told_by_one_and_says_how_long_it_took(at):
    log.outage_level('lost', 'a:1')
    at[0] += 61
    log.outage_level('lost', 'a:1')
    at[0] += 9
    assert log.outage_over('a:1//') == 70 and log.outage_over('a:1') is None


def test_one_that_is_noticed_late_is_not_told_again_unless_it_lasts(at):
    log.outage_level('lost', 'a:1')
    log.outage_over('a:1')
    for _ in range(20):  # connections that lay unused, one after the other
        at[0] += 1
        assert log.outage_level('lost', 'a:1') == logging.INFO
        assert log.outage_level('recovery', 'a:1') == logging.DEBUG
        assert log.outage_over('a:1') is None
    assert log.outage_level('lost', 'a:1') == logging.INFO
    at[0] += log.OUTAGE_NOTICED_LATE  # it was another one
    assert log.outage_level('recovery', 'a:1') == logging.WARNING
    at[0] += 1
    assert log.outage_over('a:1') == log.OUTAGE_NOTICED_LATE + 1
