"""`runtime.link`: something is called after the end of a task, whatever ended it."""
import pytest

from greenmq import runtime


@pytest.mark.parametrize('how', ['returns', 'killed', 'killed before its start'])
def test_it_is_called_once_with_the_task(how):
    told, linked, going = [], [], runtime.Event()

    def run():
        linked.append(runtime.current())
        assert runtime.link(runtime.current(), told.append)
        going.wait()

    task = runtime.spawn(run, name='linked')
    if how == 'killed before its start':
        runtime.link(task._greenlet, told.append)
        linked.append(task._greenlet)
    else:
        runtime.sleep(0)
    assert not told
    going.set() if how == 'returns' else task.kill()
    task.join()
    runtime.sleep(0)
    assert told == linked[:1]


def test_of_the_main_greenlet_nobody_tells_the_end():
    assert not runtime.link(runtime.current(), print)
