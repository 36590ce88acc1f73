"""Every way to set up Grafana's buttons, pressed in a real browser.

The buttons are those of our dashboards; a page stands in for Grafana and sends what it would send
(tests/browser/stage.py). What shall work ends with the command seen
on the broker and the plug's relay moved; where the browser lets nothing through, nothing moves.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error as PlaywrightError

from demo.process import free_port
from tests.browser.conftest import OpenPage
from tests.browser.parts import (
    TOKEN,
    ButtonServer,
    Certificates,
    GrafanaStandIn,
    Nginx,
    Site,
    tls_proxy,
)
from tests.browser.stage import (
    OFF_BUTTON,
    SHIPPED_BUTTONS,
    Request,
    Stage,
    cloudspout,
    core,
    lamp_off,
    press,
)

# --- The same scheme ----------------------------------------------------------------------------


@pytest.mark.parametrize("device_id", [True, False], ids=["grafana-10-to-13.2", "later"])
@pytest.mark.parametrize("api", SHIPPED_BUTTONS, ids=lambda api: api["data"])
def test_a_canvas_button_of_our_dashboards_switches_over_http(
    stage: Stage, open_page: OpenPage, api: dict[str, Any], *, device_id: bool
) -> None:
    page = open_page(stage.page_url)
    url = f"http://pi:{stage.open_to_grafana.port}"
    outcome = press(page, core(api, device_id=device_id, button_url=url, plug="lamp"))
    assert stage.has_switched(outcome, json.loads(api["data"])["value"])


def test_cloudspouts_button_switches_over_http_and_brings_cookies_in_vain(
    stage: Stage, open_page: OpenPage
) -> None:
    page = open_page(stage.page_url)
    page.context.add_cookies(
        [{"name": "grafana_session", "value": "secret-of-grafana", "url": "http://pi"}]
    )
    url = f"http://pi:{stage.open_to_grafana.port}/plugs/lamp/relay"
    assert stage.has_switched(press(page, cloudspout(url, "toggle")))
    assert "secret-of-grafana" not in stage.open_to_grafana.log()


def test_a_button_with_its_value_in_the_query_switches(stage: Stage, open_page: OpenPage) -> None:
    """The editor of Canvas buttons leaves "{}" as the body."""
    page = open_page(stage.page_url)
    api = OFF_BUTTON | {"queryParams": [["value", "open"]], "data": "{}"}
    url = f"http://pi:{stage.open_to_grafana.port}"
    assert stage.has_switched(press(page, core(api, button_url=url, plug="lamp")))


@pytest.mark.parametrize("place", ["X-Api-Key", "Authorization"])
def test_a_button_brings_the_token_in_a_header(
    stage: Stage, open_page: OpenPage, place: str
) -> None:
    server = stage.house.button_server(
        token=TOKEN, allowed_origins=[f"http://pi:{stage.grafana.port}"]
    )
    page = open_page(stage.page_url)
    request = lamp_off(f"http://pi:{server.port}")
    without = press(page, request)
    assert without.status == 401  # and readable by the page: the headers stand on errors too
    assert "a token is needed" in without.body
    assert stage.is_untouched()
    token = TOKEN if place == "X-Api-Key" else f"Bearer {TOKEN}"
    assert stage.has_switched(press(page, request.with_headers(**{place: token})))


def test_a_page_reads_why_nothing_was_switched(stage: Stage, open_page: OpenPage) -> None:
    page = open_page(stage.page_url)
    url = f"http://pi:{stage.open_to_grafana.port}"
    nobody = core(OFF_BUTTON, button_url=url, plug="nobody")
    freezer = core(OFF_BUTTON, button_url=url, plug="freezer")
    assert press(page, nobody)[:2] == (
        404,
        '{"error":"nobody: never seen on the broker","success":false}\n',
    )
    outcome = press(page, freezer)
    assert outcome.status == 504
    assert "did not confirm" in outcome.body
    assert len(stage.house.moves()) == stage.moves_before


def test_a_button_of_another_content_type_is_told_so(stage: Stage, open_page: OpenPage) -> None:
    """A simple POST needs no permission of the server; it is not carried out either."""
    page = open_page(stage.page_url)
    request = lamp_off(f"http://pi:{stage.open_to_grafana.port}")
    outcome = press(page, request.with_headers(Content_Type="text/plain"))
    assert outcome.status == 415
    assert "expected Content-Type: application/json" in outcome.body
    assert stage.is_untouched()


def test_a_server_that_does_not_expect_grafana_is_not_reached(
    stage: Stage, open_page: OpenPage
) -> None:
    """No CORS headers: the browser asks (OPTIONS), and sends nothing else."""
    page = open_page(stage.page_url)
    url = f"http://pi:{stage.closed.port}"
    for request in (lamp_off(url), cloudspout(f"{url}/plugs/lamp/relay", "open")):
        outcome = press(page, request)
        assert outcome.status == 0
        assert "blocked by CORS policy" in outcome.console
    assert stage.is_untouched()


# --- TLS before the button server alone ---------------------------------------------------------


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make what Flask's ssl_context="adhoc" and many a tutorial make: signed by nobody."""
    return _self_signed(tmp_path_factory.mktemp("self-signed"))


def _self_signed(folder: Path) -> Certificates:
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-noenc", "-days", "30", "-subj", "/CN=pi", "-addext", "subjectAltName=DNS:pi"]
    argv += ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.crt")]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return Certificates(folder)


PutTlsBefore = Callable[[ButtonServer, Certificates], Nginx]


@pytest.fixture
def put_tls_before(tmp_path: Path) -> Iterator[PutTlsBefore]:
    """Start nginx before a button server, with nothing but TLS, on a port of its own."""
    with ExitStack() as running:

        def start(server: ButtonServer, certificates: Certificates) -> Nginx:
            port = free_port()
            http = tls_proxy(port, certificates, server.url)
            return running.enter_context(Nginx(tmp_path / f"tls-{port}", http, port))

        yield start


def test_a_certificate_that_nobody_knows_stops_the_request_silently(
    stage: Stage,
    open_page: OpenPage,
    self_signed: Certificates,
    put_tls_before: PutTlsBefore,
) -> None:
    nginx = put_tls_before(stage.open_to_grafana, self_signed)
    page = open_page(stage.page_url)
    outcome = press(page, lamp_off(f"https://pi:{nginx.port}"))
    assert (outcome.status, outcome.body) == (0, "TypeError: Failed to fetch")
    assert "net::ERR_CERT_AUTHORITY_INVALID" in outcome.console
    assert nginx.requests() == []
    assert stage.is_untouched()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_imported_authority_lets_it_through(
    stage: Stage,
    open_trusting_page: OpenPage,
    certificates: Certificates,
    put_tls_before: PutTlsBefore,
    scheme: str,
) -> None:
    nginx = put_tls_before(stage.open_to_grafana, certificates)
    url = stage.page_url if scheme == "http" else stage.secure_page_url
    page = open_trusting_page(url)
    assert stage.has_switched(press(page, lamp_off(f"https://pi:{nginx.port}")))
    assert [line.split('"')[1].split()[0] for line in nginx.requests()] == ["OPTIONS", "POST"]


def test_a_warning_clicked_away_counts_for_the_same_certificate_on_any_port(
    stage: Stage,
    open_page: OpenPage,
    self_signed: Certificates,
    put_tls_before: PutTlsBefore,
    tmp_path: Path,
) -> None:
    with GrafanaStandIn(tls=self_signed) as grafana:
        origin = f"https://pi:{grafana.port}"
        server = stage.house.button_server(allowed_origins=[origin])
        same = put_tls_before(server, self_signed)
        other = put_tls_before(server, _self_signed(tmp_path))
        page = open_page("about:blank")
        with pytest.raises(PlaywrightError, match="ERR_CERT_AUTHORITY_INVALID"):
            page.goto(f"{origin}/d/energy")
        page.get_by_role("button", name="Advanced").click()
        page.locator("#proceed-link").click()
        page.wait_for_url(f"{origin}/d/energy")

        refused = press(page, lamp_off(f"https://pi:{other.port}"))
        assert refused.status == 0
        assert other.requests() == []
        assert stage.is_untouched()
        assert stage.has_switched(press(page, lamp_off(f"https://pi:{same.port}")))


# --- Mixed content, and Grafana's own policy ----------------------------------------------------


def test_a_page_of_https_cannot_reach_http(stage: Stage, open_trusting_page: OpenPage) -> None:
    page = open_trusting_page(stage.secure_page_url)
    outcome = press(page, lamp_off(f"http://pi:{stage.open_to_grafana.port}"))
    assert outcome.status == 0
    assert "Mixed Content" in outcome.console
    assert stage.is_untouched()


def test_a_page_of_https_reaches_http_on_loopback(
    stage: Stage, open_trusting_page: OpenPage
) -> None:
    page = open_trusting_page(stage.secure_page_url)
    assert stage.has_switched(press(page, lamp_off(stage.open_to_grafana.url)))


@pytest.mark.parametrize("is_listed", [False, True])
def test_grafanas_content_security_policy_has_to_list_the_server(
    stage: Stage, open_page: OpenPage, *, is_listed: bool
) -> None:
    with GrafanaStandIn() as grafana:
        server = stage.house.button_server(allowed_origins=[f"http://pi:{grafana.port}"])
        url = f"http://pi:{server.port}"
        grafana.csp = "connect-src 'self' grafana.com" + (f" {url}" if is_listed else "")
        outcome = press(
            open_page(f"http://pi:{grafana.port}/d/energy"),
            lamp_off(url),
        )
        if is_listed:
            assert stage.has_switched(outcome)
        else:
            assert outcome.status == 0
            assert "Content Security Policy" in outcome.console
            assert stage.is_untouched()


# --- One origin ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(
    shared_stage: Stage, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    server = shared_stage.house.button_server(token=TOKEN, allowed_origins=["https://pi"])
    folder = tmp_path_factory.mktemp("site")
    with Site(folder, certificates, shared_stage.grafana.port, server.port) as one:
        yield one


@pytest.mark.parametrize("is_relative", [True, False])
def test_behind_nginx_a_button_needs_nothing_but_grafanas_login(
    stage: Stage,
    open_trusting_page: OpenPage,
    site: Site,
    *,
    is_relative: bool,
) -> None:
    origin = f"https://pi:{site.port}"
    button = lamp_off("/buttons" if is_relative else f"{origin}/buttons")
    page = open_trusting_page(f"{origin}/d/energy")
    assert press(page, button).status == 401
    assert stage.is_untouched()
    log_in = Request(
        f"{origin}/login",
        {"method": "POST", "body": json.dumps({"user": "alice", "password": "wonderland"})},
    )
    assert press(page, log_in).status == 200
    assert stage.has_switched(press(page, button))
    assert TOKEN not in page.content()


def test_behind_nginx_the_page_of_the_plugs_comes_after_grafanas_login(
    stage: Stage, open_trusting_page: OpenPage, site: Site
) -> None:
    origin = f"https://pi:{site.port}"
    page = open_trusting_page(f"{origin}/buttons/")
    assert page.url == f"{origin}/login?redirectTo=%2Fbuttons%2F"
    page.context.add_cookies([{"name": "grafana_session", "value": "stale", "url": origin}])
    page.goto(f"{origin}/buttons/")  # by way of Grafana, which renews the session
    assert page.url == f"{origin}/buttons/"
    page.get_by_role("group", name="lamp").get_by_role("button", name="Off").click()
    page.get_by_text("Confirmed: it is off.").wait_for()
    assert [each.json["value"] for each in stage.house.commands("lamp")] == ["open"]
    assert not stage.house.switches["lamp"].relay
    assert not page.locator("#login").is_visible()

    # Ten minutes later Grafana wants to renew the session again.
    stage.grafana.seen.clear()
    page.context.add_cookies([{"name": "grafana_session", "value": "stale", "url": origin}])
    page.wait_for_event("framenavigated")
    page.get_by_role("group", name="lamp").wait_for()
    paths = [seen.path for seen in stage.grafana.seen]
    assert "/user/auth-tokens/rotate?redirectTo=%2Fbuttons%2F" in paths
