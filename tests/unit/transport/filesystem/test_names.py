"""What the names of message files mean, to us and to kombu."""
from __future__ import annotations

import pytest

from greenmq.exceptions import InvalidArgument
from greenmq.transport.filesystem import names

KOMBU = '123456_1b4e28ba-2fa1-41d2-883f-0016d3cca427.a.queue.msg'


def test_kombus_name():
    assert names.queue_of(KOMBU) == 'a.queue'
    assert names.parse(KOMBU)[:1] + names.parse(KOMBU)[2:] == (123456, 0, 0, False)


@pytest.mark.parametrize('name', ['.exchange', '.greenmq', '.tmp-1', 'README', 'a.txt', '.msg', 'x.msg'])
def test_what_is_no_message(name):
    assert not names.queue_of(name)


def test_ours_is_read_as_kombu_reads_it():
    name = names.Namer().name('a.queue', 7)
    number, _, queue_find = name.partition('.')[0].partition('_')[0], *name.partition('.')[1:]
    assert number.isdecimal()
    assert queue_find == 'a.queue.msg'
    assert names.parse(name).priority == 7
    assert names.parse(name).ours


def test_names_of_one_moment_are_in_order():
    namer = names.Namer()
    made = [namer.name('q') for _ in range(1000)]
    assert sorted(made, key=lambda name: names.parse(name)[:2]) == made


@pytest.mark.parametrize('name', [KOMBU, names.Namer().name('a.queue'), names.Namer().name('a.queue', 3)])
def test_each_delivery_is_counted_and_the_place_stays(name):
    before, once = names.parse(name), names.again(name)
    twice = names.again(once)
    assert [names.parse(each).deliveries for each in (name, once, twice)] == [0, 1, 2]
    assert names.parse(twice)._replace(deliveries=0) == before
    assert names.queue_of(twice) == 'a.queue'


@pytest.mark.parametrize('queue', ['', '.hidden', 'a/b', 'a\0b', 'x' * 161, 'ü' * 81])
def test_a_queue_that_is_no_file_name_is_refused(queue):
    with pytest.raises(InvalidArgument):
        names.check_queue(queue)


@pytest.mark.parametrize('queue', ['a', 'a.b', 'celery@host.celery.pidbox', 'x' * 160, 'ü' * 80])
def test_other_names_are_fine(queue):
    names.check_queue(queue)
