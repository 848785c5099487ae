"""The table of brokers and what the machines install agree."""

import re

from tests.house.source import ROOT
from tests.support import brokers, servers


def test_the_packages_of_every_broker_are_installed_in_ci():
    listed = set(re.search(r'packages=\((.*?)\)', (ROOT / '.ci/servers').read_text())[1].split())
    assert {package for row in brokers.TABLE for package in row.packages} <= listed


def test_every_row_is_a_url_or_a_fixture_of_the_suite():
    import tests.conftest

    for row in brokers.TABLE:
        assert not row.is_fixture or hasattr(servers, row.url) or hasattr(tests.conftest, row.url), row
    assert len({row.name for row in brokers.TABLE}) == len(brokers.TABLE)
