"""One filled database for all tests of queries: they only read."""

from collections.abc import Iterator

import pytest

from tests.grafana.filled import Household, filled


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    with filled(tmp_path_factory.mktemp("grafana")) as household:
        yield household
