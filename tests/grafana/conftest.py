"""One filled database for all tests of queries: they only read."""

from collections.abc import Iterator

import pytest

from tests.grafana import household
from tests.grafana.filled import Household, filled


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    folder = tmp_path_factory.mktemp("grafana")
    with filled(folder, household.plug_messages(), household.sensor_messages()) as home:
        yield home
