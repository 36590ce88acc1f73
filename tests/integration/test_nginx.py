"""The nginx site and its certificates as they are shipped, with real nginx and openssl.

Grafana is stood in for: it is not to be had from Debian. Everything behind is real.
"""

import socket
import ssl
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from requests.adapters import HTTPAdapter

from demo.parts import HOST
from demo.process import wait_until
from demo.switches import SwitchSpec
from tests.browser.parts import (
    TOKEN,
    ButtonServer,
    Certificates,
    GrafanaStandIn,
    Home,
    Site,
    home,
    make_certificates,
    run_make_certificate,
)

PLUGS = ["tv", "sauna", *(f"plug-{number:02}" for number in range(18))]


class Front(NamedTuple):
    """All that a user meets, and what is behind it."""

    site: Site
    grafana: GrafanaStandIn
    home: Home
    server: ButtonServer
    certificates: Certificates

    def session(self, cookie: str = "good-session") -> requests.Session:
        """Return a client as a browser is, logged in to Grafana or not."""
        session = requests.Session()
        session.trust_env = False
        session.mount("https://", HTTPAdapter(pool_maxsize=100))
        session.verify = str(self.certificates.ca)
        if cookie:
            session.cookies.set("grafana_session", cookie)
        return session


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("nginx")
    certificates = make_certificates(folder / "tls", "pi", "localhost", HOST)
    specs = [SwitchSpec(name=name) for name in PLUGS]
    with home(folder / "home", specs) as house, GrafanaStandIn() as grafana:
        server = house.button_server(token=TOKEN)
        with Site(folder / "site", certificates, grafana.port, server.port) as site:
            yield Front(site, grafana, house, server, certificates)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """Forget what earlier tests have seen."""
    if "front" in request.fixturenames:
        front: Front = request.getfixturevalue("front")
        front.grafana.seen.clear()
        front.home.client.clear()


# --- What passes, and what does not -------------------------------------------------------------


def test_a_logged_in_user_switches_without_knowing_the_token(front: Front) -> None:
    url = f"{front.site.url}/buttons/plugs/plug-00/relay"
    with front.session() as session:
        answer = session.post(url, json={"value": "open"}, headers={"Origin": front.site.url})
    assert (answer.status_code, answer.json()["relay"]) == (HTTPStatus.OK, "open")
    assert [each.json["value"] for each in front.home.commands("plug-00")] == ["open"]
    assert not front.home.switches["plug-00"].relay
    assert TOKEN not in answer.text + str(answer.headers)


@pytest.mark.parametrize("cookie", ["", "forged", "stale"])
def test_nobody_else_switches_or_sees_anything(front: Front, cookie: str) -> None:
    with front.session(cookie) as session:
        for method, path in [
            ("POST", "plugs/plug-01/relay"),
            ("POST", "plugs/plug-01/relay?value=open"),
            ("GET", "plugs"),
            ("GET", "plugs/plug-01/relay"),
            ("GET", "page.js"),
            ("GET", "health"),
        ]:
            answer = session.request(
                method, f"{front.site.url}/buttons/{path}", json={"value": "open"}
            )
            assert answer.status_code == HTTPStatus.UNAUTHORIZED, path
            assert answer.json() == {"success": False, "error": "log in to Grafana first"}
    assert front.home.commands() == []


@pytest.mark.parametrize(
    ("cookie", "entrance"), [("", "/login"), ("stale", "/user/auth-tokens/rotate")]
)
def test_the_page_sends_to_grafanas_entrance_and_back(
    front: Front, cookie: str, entrance: str
) -> None:
    with front.session(cookie) as session:
        answer = session.get(f"{front.site.url}/buttons/", allow_redirects=False)
        assert answer.status_code == HTTPStatus.FOUND
        assert answer.headers["Location"] == f"{front.site.url}{entrance}?redirectTo=%2Fbuttons%2F"
        if cookie == "stale":
            session.cookies.clear()
            session.headers["Cookie"] = "grafana_session=stale"
            renewed = session.get(answer.headers["Location"], allow_redirects=False)
            assert renewed.headers["Location"].endswith("/buttons/")
            assert "good-session" in renewed.headers["Set-Cookie"]


def test_a_password_of_grafana_is_as_good_as_its_session(front: Front) -> None:
    url = f"{front.site.url}/buttons/plugs"
    with front.session("") as session:
        good = session.get(url, auth=(front.grafana.USER, front.grafana.PASSWORD))
        bad = session.get(url, auth=(front.grafana.USER, "guess"))
    assert (good.status_code, bad.status_code) == (HTTPStatus.OK, HTTPStatus.UNAUTHORIZED)
    assert [state["name"] for state in good.json()] == sorted(PLUGS)


def test_what_a_client_says_in_our_name_is_not_passed_on(front: Front) -> None:
    """A token of its own choice, a forged address: neither reaches the button server."""
    wrong = {"X-Api-Key": "guess", "Authorization": "Bearer guess", "X-Forwarded-For": "192.0.2.1"}
    with front.session() as session:
        for _ in range(8):  # five wrong tokens would lock the address out
            answer = session.get(f"{front.site.url}/buttons/plugs", headers=wrong)
            assert answer.status_code == HTTPStatus.OK
    assert "wrong token" not in front.server.log()


def test_wrong_tokens_lock_out_their_own_address_only(front: Front) -> None:
    """All clients of a proxy come from 127.0.0.1, and are told apart by what it says of them."""
    url = f"{front.server.url}/plugs"
    burglar = {"X-Forwarded-For": "192.0.2.77", "X-Api-Key": "guess"}
    statuses = [requests.get(url, headers=burglar, timeout=5).status_code for _ in range(6)]
    assert statuses == [HTTPStatus.UNAUTHORIZED] * 5 + [HTTPStatus.TOO_MANY_REQUESTS]
    knowing = burglar | {"X-Api-Key": TOKEN}
    locked = requests.get(url, headers=knowing, timeout=5)
    assert locked.status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert int(locked.headers["Retry-After"]) > 0
    with front.session() as session:
        assert session.get(f"{front.site.url}/buttons/plugs").status_code == HTTPStatus.OK
    assert requests.get(url, headers={"X-Api-Key": TOKEN}, timeout=5).ok


def test_a_foreign_page_cannot_use_the_session(front: Front) -> None:
    url = f"{front.site.url}/buttons/plugs/plug-01/relay"
    with front.session() as session:
        for origin in ("https://evil.example", "null", f"https://{HOST}:1"):
            answer = session.post(url, json={"value": "open"}, headers={"Origin": origin})
            assert answer.status_code == HTTPStatus.FORBIDDEN
            assert "Access-Control-Allow-Origin" not in answer.headers
        simple = session.post(url, data='{"value": "open"}', headers={"Content-Type": "text/plain"})
    assert simple.status_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert front.home.commands() == []


def test_too_large_a_body_is_refused(front: Front) -> None:
    url = f"{front.site.url}/buttons/plugs/plug-01/relay"
    with front.session() as session:
        for size in (5_000, 9_000):
            answer = session.post(url, json={"value": "open", "note": "x" * size})
            assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert front.home.commands() == []


def test_grafana_gets_everything_else(front: Front) -> None:
    with front.session() as session:
        answer = session.get(f"{front.site.url}/d/energy?orgId=1", headers={"Authorization": "x"})
    assert answer.text.endswith("/d/energy")
    (seen,) = front.grafana.seen
    assert seen.path == "/d/energy?orgId=1"
    assert seen.headers["host"] == f"{HOST}:{front.site.port}"
    assert seen.headers["x-forwarded-proto"] == "https"
    assert seen.headers["x-forwarded-for"] == HOST
    assert seen.headers["authorization"] == "x"
    assert "grafana_session=good-session" in seen.headers["cookie"]
    assert "x-api-key" not in seen.headers
    assert "upgrade" not in seen.headers


def test_grafana_live_is_a_websocket(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.certificates.ca))
    with (
        socket.create_connection((HOST, front.site.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="pi") as connection,
    ):
        connection.sendall(
            b"GET /api/live/ws HTTP/1.1\r\nHost: pi\r\nUpgrade: websocket\r\n"
            b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = connection.recv(4096).decode()
        assert head.startswith("HTTP/1.1 101")
        # The example of RFC 6455, section 1.3
        assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        connection.sendall(b"\x81\x05Hello")
        assert connection.recv(4096) == b"\x81\x05Hello"


def test_logins_are_slowed_down(front: Front) -> None:
    with front.session("") as session:
        statuses = Counter(
            session.post(
                f"{front.site.url}/login", json={"user": "alice", "password": str(number)}
            ).status_code
            for number in range(25)
        )
    assert statuses[HTTPStatus.TOO_MANY_REQUESTS] >= 10
    assert statuses[HTTPStatus.UNAUTHORIZED] <= 15


def test_a_flood_of_requests_is_cut_down(front: Front) -> None:
    with front.session() as session, ThreadPoolExecutor(8) as pool:
        url = f"{front.site.url}/buttons/health"
        statuses = Counter(answer.status_code for answer in pool.map(session.get, [url] * 300))
    assert statuses.keys() == {HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS}
    wait_until(lambda: _is_quiet(front), 10, "end of the flood's penalty")


def _is_quiet(front: Front) -> bool:
    with front.session() as session:
        return session.get(f"{front.site.url}/buttons/health").ok


def test_without_the_button_server_the_answer_is_no(front: Front, tmp_path: Path) -> None:
    with (
        Site(tmp_path, front.certificates, front.grafana.port, 1) as site,
        front.session() as session,
    ):
        answer = session.post(f"{site.url}/buttons/plugs/plug-01/relay", json={"value": "open"})
    assert answer.status_code == HTTPStatus.BAD_GATEWAY


def test_without_grafana_nobody_switches(front: Front, tmp_path: Path) -> None:
    with (
        Site(tmp_path, front.certificates, 1, front.server.port) as site,
        front.session() as session,
    ):
        answer = session.post(f"{site.url}/buttons/plugs/plug-01/relay", json={"value": "open"})
    assert answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert front.home.commands() == []


# --- TLS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_http_is_sent_to_https_with_its_method(front: Front, method: str) -> None:
    url = f"http://{HOST}:{front.site.http_port}/buttons/plugs?a=b"
    answer = requests.request(method, url, allow_redirects=False, timeout=5)
    assert answer.status_code == HTTPStatus.PERMANENT_REDIRECT
    assert answer.headers["Location"] == f"https://{HOST}/buttons/plugs?a=b"


def test_http_hands_out_the_authority_and_nothing_else(front: Front) -> None:
    url = f"http://{HOST}:{front.site.http_port}"
    answer = requests.get(f"{url}/ca.crt", timeout=5)
    assert answer.text == front.certificates.ca.read_text()
    assert answer.headers["Content-Type"] == "application/x-x509-ca-cert"
    for path in ("ca.key", "server.key", "token.conf"):
        assert requests.get(f"{url}/{path}", allow_redirects=False, timeout=5).is_redirect


@pytest.mark.parametrize(
    ("options", "is_accepted"),
    [
        (["-tls1"], False),
        (["-tls1_1"], False),
        (["-tls1_2"], True),
        (["-tls1_3"], True),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA@SECLEVEL=0"], False),
    ],
)
def test_only_modern_tls_is_spoken(front: Front, options: list[str], *, is_accepted: bool) -> None:
    if "-cipher" not in options and not is_accepted:
        options = [*options, "-cipher", "DEFAULT@SECLEVEL=0"]
    target = f"{HOST}:{front.site.port}"
    argv = ["openssl", "s_client", "-connect", target, "-CAfile", str(front.certificates.ca)]
    outcome = subprocess.run(
        [*argv, "-verify_return_error", *options], check=False, capture_output=True, timeout=20
    )
    assert (outcome.returncode == 0) is is_accepted, outcome.stderr


@pytest.mark.parametrize("name", ["pi", "localhost", HOST])
def test_the_certificate_is_good_for_the_names_given(front: Front, name: str) -> None:
    assert _shake_hands(front, name)


def test_the_certificate_is_good_for_no_other_name(front: Front) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'pi\.local'"):
        _shake_hands(front, "pi.local")


def _shake_hands(front: Front, name: str) -> str | None:
    context = ssl.create_default_context(cafile=str(front.certificates.ca))
    with (
        socket.create_connection((HOST, front.site.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.version()


# --- The certificates ---------------------------------------------------------------------------


def test_keys_can_be_read_by_nobody_else(front: Front) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in front.certificates.folder.iterdir()}
    del modes["token.conf"]  # by the test itself
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644, "server.crt": 0o644}


def test_what_is_good_is_kept(tmp_path: Path) -> None:
    make_certificates(tmp_path, "pi", "192.168.1.20")
    before = _contents(tmp_path)
    again = run_make_certificate(tmp_path)
    same = run_make_certificate(tmp_path, "pi", "192.168.1.20")
    assert (again.returncode, same.returncode) == (0, 0)
    assert again.stdout.startswith("Good until")
    assert _contents(tmp_path) == before


def test_other_names_get_another_certificate_of_the_same_authority(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, "pi")
    before = _contents(tmp_path)
    make_certificates(tmp_path, "pi", "pi.lan", "10.0.0.7", "fd12::7")
    after = _contents(tmp_path)
    assert (after["ca.crt"], after["ca.key"]) == (before["ca.crt"], before["ca.key"])
    assert after["server.key"] != before["server.key"]
    shown = _openssl("x509", "-in", certificates.server, "-noout", "-ext", "subjectAltName")
    for name in ("DNS:pi,", "DNS:pi.lan", "IP Address:10.0.0.7", "IP Address:FD12:0:0:0:0:0:0:7"):
        assert name in shown
    assert _contents(tmp_path).keys() == before.keys()


def test_a_certificate_about_to_expire_is_renewed_for_its_names(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, "pi", "10.0.0.7")
    sign(certificates, "DNS:pi,IP:10.0.0.7", days=30)
    short_lived = certificates.server.read_text()
    renewed = run_make_certificate(tmp_path)
    assert renewed.returncode == 0
    assert "for pi 10.0.0.7" in renewed.stdout
    assert certificates.server.read_text() != short_lived
    a_year = str(365 * 86400)
    _openssl("x509", "-in", certificates.server, "-noout", "-checkend", a_year)
    _openssl("verify", "-CAfile", certificates.ca, certificates.server)


def test_names_beyond_the_authority_are_refused(tmp_path: Path) -> None:
    make_certificates(tmp_path, "pi")
    before = _contents(tmp_path)
    refused = run_make_certificate(tmp_path, "pi", "bank.example")
    assert refused.returncode == 1
    assert "may not sign" in refused.stderr
    assert "bank.example" in refused.stderr
    assert _contents(tmp_path) == before


def test_a_stolen_authority_is_of_no_use_elsewhere(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, "pi", "energy.example.org")
    for foreign in ("DNS:bank.example", "DNS:example.org", "IP:192.0.2.1"):
        sign(certificates, foreign, days=30)
        with pytest.raises(subprocess.CalledProcessError) as caught:
            _openssl("verify", "-CAfile", certificates.ca, certificates.server)
        assert "permitted subtree violation" in caught.value.stderr


@pytest.mark.parametrize("name", ["a,DNS:b", "a b", "", "999.1.1.1", "a\nb", "$(id)"])
def test_nonsense_is_no_name(tmp_path: Path, name: str) -> None:
    refused = run_make_certificate(tmp_path, name)
    assert refused.returncode == 1
    assert refused.stderr
    assert not (tmp_path / "server.crt").exists()


def test_without_arguments_this_machine_is_named(tmp_path: Path) -> None:
    made = run_make_certificate(tmp_path)
    assert made.returncode == 0
    for name in (socket.gethostname(), f"{socket.gethostname()}.local", HOST):
        assert name in made.stdout.split()


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _openssl(*arguments: str | Path) -> str:
    argv = ["openssl", *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout


def sign(certificates: Certificates, names: str, days: int) -> None:
    """Replace the server's certificate by one for `names`, by hand."""
    request = certificates.folder.with_name("request")
    subject = ["-subj", "/CN=openenergy", "-addext", f"subjectAltName={names}"]
    _openssl("req", "-new", "-key", certificates.key, *subject, "-out", request)
    authority = ["-CA", str(certificates.ca), "-CAkey", str(certificates.folder / "ca.key")]
    how = ["-days", str(days), "-copy_extensions", "copy", "-out", str(certificates.server)]
    _openssl("x509", "-req", "-in", request, *authority, *how)


# --- Speed, and the truth at speed --------------------------------------------------------------


def test_a_press_is_confirmed_soon(front: Front) -> None:
    """Median from button to confirmed relay through TLS, Grafana's session and MQTT."""
    durations = []
    with front.session() as session:
        for number in range(60):
            value = "close" if number % 2 else "open"
            began = time.monotonic()
            answer = session.post(
                f"{front.site.url}/buttons/plugs/plug-02/relay", json={"value": value}
            )
            durations.append(time.monotonic() - began)
            assert answer.json()["relay"] == value
            assert front.home.switches["plug-02"].relay is (value == "close")
    median = statistics.median(durations)
    print(
        f"button to confirmed relay: median {median * 1e3:.0f} ms, slowest {max(durations):.3f} s"
    )
    assert median < 0.25  # 15 ms on a quiet machine of two cores


class Press(NamedTuple):
    """One press and what was said of it; times in s since 1970 UTC."""

    plug: str
    value: str
    began: float
    ended: float
    status: int
    answer: dict[str, object]

    def is_true(self, reports: list[tuple[str, float]]) -> bool:
        """Whether the plug said, while this press was under way, what the caller was told."""
        return any(
            relay == self.value and self.began - 0.001 <= when <= self.ended + 0.001
            for relay, when in reports
        )


def test_fifty_presses_a_second_on_twenty_plugs_are_answered_truthfully(front: Front) -> None:
    dead = {"tv", "sauna"}
    for name in dead:
        front.home.switches[name].set_fault("hang")
    try:
        wait_until(lambda: _offline(front) == dead, 20, "dead plugs seen to be offline")
        front.home.client.clear()
        presses = _press_fifty_times_a_second(front, 250)
    finally:
        for name in dead:
            front.home.switches[name].clear_fault()

    durations = [each.ended - each.began for each in presses if each.plug not in dead]
    counts = Counter((each.plug in dead, each.status) for each in presses)
    median_ms = statistics.median(durations) * 1e3
    print(
        f"250 presses in 5 s: median {median_ms:.0f} ms, slowest {max(durations):.2f} s, {counts}"
    )
    assert counts.keys() == {(False, HTTPStatus.OK), (True, HTTPStatus.GATEWAY_TIMEOUT)}
    reports = {name: _reports(front, name) for name in PLUGS}
    for each in presses:
        if each.status == HTTPStatus.OK:
            assert each.answer["relay"] == each.value
            assert each.is_true(reports[each.plug])
        else:
            assert each.answer["success"] is False


def _offline(front: Front) -> set[str]:
    return {name for name, state in front.server.states().items() if not state["online"]}


def _press_fifty_times_a_second(front: Front, count: int) -> list[Press]:
    with front.session() as session, ThreadPoolExecutor(100) as pool:
        pending = []
        start = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, start + number / 50 - time.monotonic()))
            plug = PLUGS[number % len(PLUGS)]
            value = ("open", "close")[number // len(PLUGS) % 2]
            pending.append(pool.submit(_press, front, session, plug, value))
        return [each.result() for each in pending]


def _press(front: Front, session: requests.Session, plug: str, value: str) -> Press:
    began = time.time()
    answer = session.post(
        f"{front.site.url}/buttons/plugs/{plug}/relay", json={"value": value}, timeout=30
    )
    return Press(plug, value, began, time.time(), answer.status_code, answer.json())


def _reports(front: Front, plug: str) -> list[tuple[str, float]]:
    """Return what a plug said on MQTT of its relay, and when it was so (s since 1970 UTC)."""
    messages = [each.json for each in front.home.client.messages(f"@update/{plug}/+/relay")]
    return [("close" if each["value"] else "open", each["time"] / 1e3) for each in messages]
