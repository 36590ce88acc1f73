"""Chromium, two homes of it: one that trusts our authority, and one that never heard of it."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from demo.process import find_program
from demo.switches import SwitchSpec
from tests.browser.parts import Certificates, GrafanaStandIn, Home, home, make_certificates
from tests.browser.stage import Stage

FLAGS = [
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Grafana's host, and a page of somebody else's.
    "--host-resolver-rules=MAP pi 127.0.0.1, MAP evil.example 127.0.0.1",
]

OpenPage = Callable[..., Page]


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "pi", "127.0.0.1")


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as library:
        yield library


@pytest.fixture(scope="package")
def chromium(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start a browser as it is installed."""
    browser = _launch(playwright, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def trusting_chromium(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Browser]:
    """Start one whose user imported our authority (integrations/nginx/README.md, step 6)."""
    user_home = tmp_path_factory.mktemp("trusting-chromium")
    database = user_home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for arguments in (
        ["-N", "--empty-password"],
        ["-A", "-n", "openenergy", "-t", "C,,", "-i", str(certificates.ca)],
    ):
        argv = [find_program("certutil"), "-d", f"sql:{database}", *arguments]
        subprocess.run(argv, check=True, timeout=30)
    browser = _launch(playwright, user_home)
    yield browser
    browser.close()


def _launch(playwright: Playwright, user_home: Path) -> Browser:
    return playwright.chromium.launch(
        executable_path=find_program("chromium"),
        args=FLAGS,
        env={**os.environ, "HOME": str(user_home)},
    )


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Open pages, each as if in a browser of its own, without cookies or anything else."""
    with contextlib.ExitStack() as pages:
        yield partial(_open, pages, chromium)


@pytest.fixture
def open_trusting_page(trusting_chromium: Browser) -> Iterator[OpenPage]:
    """Do the same in the browser that trusts our authority."""
    with contextlib.ExitStack() as pages:
        yield partial(_open, pages, trusting_chromium)


def _open(pages: contextlib.ExitStack, browser: Browser, url: str, **options: Any) -> Page:
    page = pages.enter_context(browser.new_context(**options)).new_page()
    page.set_default_timeout(10_000)
    page.goto(url)
    return page


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Furnish it with a lamp, a television, and a freezer that must not be switched."""
    specs = [SwitchSpec("freezer", load="fridge"), SwitchSpec("lamp", model="v1"), SwitchSpec("tv")]
    with home(tmp_path_factory.mktemp("home"), specs, read_only=["freezer"]) as one:
        yield one


@pytest.fixture(scope="module")
def shared_stage(house: Home, certificates: Certificates) -> Iterator[Stage]:
    with GrafanaStandIn() as grafana, GrafanaStandIn(tls=certificates) as secure_grafana:
        origins = [f"http://pi:{grafana.port}", f"https://pi:{secure_grafana.port}"]
        open_to_grafana = house.button_server(allowed_origins=origins)
        yield Stage(house, grafana, secure_grafana, open_to_grafana, house.button_server())


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    shared_stage.reset()
    return shared_stage
