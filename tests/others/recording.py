"""A plugin of pytest: each test's name as it begins, its outcome as it ends, in a file.

`RECORD` names that file. It outlives a run that is killed, and the next run goes on behind what stands in it.
"""
import json
import os
import pathlib

RECORD = pathlib.Path(os.environ.get("RECORD", os.devnull))


def read(path):
    """Tests in a file: name → 'passed', 'skipped', the failure's first line, or None for what only began."""
    found = {}
    if path.exists():
        for line in path.read_text().splitlines():
            name, outcome = json.loads(line)
            # An error at the end of a test that passed counts; of subtests, the first that failed.
            if found.get(name) in (None, 'passed', 'skipped'):
                found[name] = outcome
    return found


def note(name, outcome):
    with RECORD.open('a') as file:
        file.write(json.dumps([name, outcome]) + '\n')


def pytest_collection_modifyitems(items):
    known = read(RECORD)
    items[:] = [each for each in items if each.nodeid not in known]


def pytest_runtest_logstart(nodeid):
    note(nodeid, None)


def pytest_runtest_logreport(report):
    if report.failed:
        text = getattr(getattr(report.longrepr, 'reprcrash', None), 'message', None) or str(report.longrepr)
        note(report.nodeid, ' '.join(text.split())[:160])
    elif report.skipped:
        note(report.nodeid, 'skipped')
    elif report.when == 'call':
        note(report.nodeid, 'passed')


def pytest_collectreport(report):
    if report.failed:
        note(report.nodeid, 'is not collected: ' + ' '.join(str(report.longrepr).split())[-140:])
