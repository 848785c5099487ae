"""The examples again, on brokers (`tests/house/test_programs.py` has them on memory)."""
import pytest

from tests.house.source import ROOT
from tests.house.test_programs import EXAMPLES, last_line

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('broker', ['amqp_url', 'redis_url'])
@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example(name, broker, request, tmp_path):
    url = request.getfixturevalue(broker)
    assert last_line(ROOT / 'examples' / name, '--broker', url, cwd=tmp_path) == EXAMPLES[name]
