"""button_server.py over HTTP, with real plugs' software behind it: every answer of its table."""

import base64
import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from requests.adapters import HTTPAdapter

from demo.loads import constant
from demo.parts import HOST, Mosquitto, Script, write_config
from demo.process import free_port, wait_until
from demo.switches import SwitchSpec
from tests.fault_proxy import FaultProxy
from tests.integration.running import (
    Bench,
    Table,
    command_topic,
    median,
    moves,
    mqtt_table,
    now_ms,
    plugs,
    retained_value,
    script_online_topic,
    state_topic,
    wait_for_readings,
)
from tests.mqtt_client import Message, MqttClient

SCRIPT = "button_server.py"
TOKEN = "a-word-for-buttons"
WITH_TOKEN = {"X-Api-Key": TOKEN.encode()}
GRAFANA = "http://pi:3000"
CONFIRM_TIMEOUT = 0.7


class _FromAddress(HTTPAdapter):
    """Sends from another of this machine's loopback addresses, as another machine would."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **options)


class Server(NamedTuple):
    """A running button server."""

    script: Script
    port: int

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        address: str = HOST,
        **options: Any,
    ) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", _FromAddress(address))
            url = f"http://{HOST}:{self.port}{path}"
            return session.request(
                method, url, headers=headers, timeout=20, allow_redirects=False, **options
            )

    def press(self, plug: str, value: str, **headers: str | bytes) -> requests.Response:
        return self.ask("POST", f"/plugs/{plug}/relay", json={"value": value}, headers=headers)


@contextlib.contextmanager
def serving(
    folder: Path,
    broker_port: int,
    name: str,
    *,
    must_connect: bool = True,
    qos: int = 1,
    **options: object,
) -> Iterator[Server]:
    """Run a button server under a client identifier of its own; `options` of [ButtonServer]."""
    port = free_port()
    tables: dict[str, Table] = {
        "MQTT": mqtt_table(broker_port, client_id=name, qos=qos),
        "ButtonServer": {"port": port, "confirm_timeout": CONFIRM_TIMEOUT} | options,
    }
    with Script(SCRIPT, write_config(folder / f"{name}.toml", tables)) as script:
        try:
            server = Server(script, port)
            script.wait_for_log("listening")
            if must_connect:
                wait_until(lambda: server.ask("GET", "/health").ok, 10, "connection")
            yield server
        finally:
            print(script.log_path.read_text())  # of a test that fails


class House(NamedTuple):
    """Plugs, and servers for their buttons."""

    plugs: Bench
    open: Server  # nobody needs a token
    secured: Server
    by_get: Server
    at_qos_0: Server

    def commands(self) -> list[Message]:
        return self.plugs.client.messages("@set/#")

    def relays(self) -> dict[str, bool]:
        return {name: switch.relay for name, switch in self.plugs.switches.items()}

    def pass_fence(self, server: Server) -> None:
        """Have a command of this server confirmed, so that whatever it sent before is here."""
        before = len(self.commands())
        assert server.press("oven", "close", **WITH_TOKEN).status_code == 200
        wait_until(lambda: self.commands()[before:], 10, "the command")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    specs = [
        SwitchSpec("lamp", load=constant(24.5)),
        SwitchSpec("tv", model="zero"),
        SwitchSpec("oven"),
        SwitchSpec("hidden"),
        SwitchSpec("freezer"),
        SwitchSpec("gone"),
    ]
    options: dict[str, Table] = {"freezer": {"read_only": True}}
    with contextlib.ExitStack() as running:
        bench = running.enter_context(plugs(folder, specs, options=options))
        port = bench.broker.port
        secured = serving(
            folder,
            port,
            "secured",
            token=TOKEN,
            allowed_origins=[GRAFANA, "https://grafana.example"],
            plugs=["lamp", "t?", "[!h]ven", "fr*", "gone"],
        )
        house = House(
            bench,
            running.enter_context(serving(folder, port, "open")),
            running.enter_context(secured),
            running.enter_context(serving(folder, port, "by_get", allow_get=True)),
            running.enter_context(serving(folder, port, "at_qos_0", qos=0)),
        )
        for spec in specs:
            bench.wait_for_value(spec.name, "online", 1)
        bench.switches["gone"].set_fault("refused")
        bench.wait_for_value("gone", "online", 0)
        for server in (house.open, house.secured, house.by_get, house.at_qos_0):
            wait_until_known(server, {spec.name for spec in specs})
        yield house


def wait_until_known(server: Server, names: set[str]) -> None:
    """Wait until a server has heard of these plugs, and that "gone" is offline."""

    def are_known() -> bool:
        states = server.ask("GET", "/plugs", headers=WITH_TOKEN).json()
        online = {state["name"]: state["online"] for state in states}
        return online.keys() == names and online["gone"] is False

    wait_until(are_known, 10, "the plugs")


WAYS_TO_SAY: dict[str, Callable[[str], dict[str, Any]]] = {
    "body": lambda value: {"json": {"value": value}},
    "more in the body": lambda value: {"json": {"value": value, "more": "is ignored"}},
    "query": lambda value: {"params": {"value": value}},
    "charset": lambda value: {
        "data": f' {{"value": "{value}"}} ',
        "headers": {"Content-Type": "application/json; charset=utf-8"},
    },
}


class TestPress:
    @pytest.mark.parametrize("way", WAYS_TO_SAY)
    @pytest.mark.parametrize("name", ["lamp", "tv"])
    def test_relay_is_moved_when_the_answer_comes(self, house: House, name: str, way: str) -> None:
        switch = house.plugs.switches[name]
        assert house.open.press(name, "close").ok
        for value, relay in [
            ("open", "open"),
            ("open", "open"),
            ("close", "close"),
            ("toggle", "open"),
            ("toggle", "close"),
        ]:
            answer = house.open.ask("POST", f"/plugs/{name}/relay", **WAYS_TO_SAY[way](value))
            assert switch.relay is (relay == "close")
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.json() == {
                "success": True,
                "name": name,
                "relay": relay,
                "confirmed": True,
            }
            topic = state_topic(name, "relay")
            assert retained_value(house.plugs.broker, topic) == (relay == "close")

    @pytest.mark.parametrize("server", ["open", "at_qos_0"])
    def test_command_is_as_agreed(self, house: House, server: str) -> None:
        house.plugs.client.clear()
        assert getattr(house, server).press("lamp", "open").ok
        command = house.plugs.client.wait_for(command_topic("lamp"))
        assert command.json.keys() == {"value", "time"}
        assert command.json["value"] == "open"
        assert abs(command.json["time"] - now_ms()) < 5000
        assert (command.qos, command.retain) == (1, False)
        assert command.expiry in range(5, 11)

    def test_button_to_relay_takes_less_than_100_ms(self, house: House) -> None:
        lamp = house.plugs.switches["lamp"]
        delays = []
        for number in range(20):
            before = len(moves(lamp))
            pressed = time.monotonic()
            assert house.open.press("lamp", "toggle").ok
            assert len(moves(lamp)) == before + 1, number
            moved = next(each for each in reversed(lamp.requests) if each.path == "/relay")
            delays.append(moved.time - pressed)
        assert median(delays) < 0.1

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": b"Bearer " + TOKEN.encode()},
            {"Authorization": b"bearer " + TOKEN.encode()},
            {"Authorization": b"Basic " + base64.b64encode(b"anybody:" + TOKEN.encode())},
            {"Authorization": b"Basic " + base64.b64encode(b":" + TOKEN.encode())},
            {"X-Api-Key": TOKEN.encode()},
        ],
    )
    def test_token_comes_in_any_of_three_places(
        self, house: House, headers: dict[str, bytes]
    ) -> None:
        for name in ("lamp", "tv", "oven"):  # the patterns of `plugs` fit these
            assert house.secured.press(name, "toggle", **headers).status_code == 200
        assert house.secured.ask("GET", "/plugs", headers=headers).status_code == 200

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_own_page_may_press(self, house: House, scheme: str) -> None:
        port = house.open.port
        for host in (HOST, "localhost", "LOCALHOST", socket.gethostname()):
            headers = {"Host": f"{host}:{port}", "Origin": f"{scheme}://{host}:{port}"}
            assert house.open.press("lamp", "toggle", **headers).status_code == 200

    @pytest.mark.parametrize("value", ["close", "open", "toggle"])
    def test_get_presses_where_that_is_allowed(self, house: House, value: str) -> None:
        before = len(moves(house.plugs.switches["lamp"]))
        answer = house.by_get.ask("GET", f"/plugs/lamp/relay?value={value}")
        assert answer.status_code == 200
        assert answer.json()["confirmed"]
        # A plug that is as it should be has confirmed that before it is told to be so.
        wait_until(lambda: len(moves(house.plugs.switches["lamp"])) > before, 10, "the request")
        assert "confirmed" not in house.by_get.ask("GET", "/plugs/lamp/relay").json()

    def test_two_presses_at_once_get_an_answer_each(self, house: House) -> None:
        with ThreadPoolExecutor() as pool:
            answers = pool.map(lambda value: house.open.press("lamp", value), ["open", "close"] * 5)
            assert [answer.json()["relay"] for answer in answers] == ["open", "close"] * 5


class TestManyPlugs:
    def test_all_are_switched(self, house: House) -> None:
        for value, is_closed in (("open", False), ("close", True)):
            orders = [{"name": name, "value": value} for name in ("lamp", "tv", "oven")]
            answer = house.open.ask("POST", "/plugs/relays", json=orders)
            assert answer.status_code == 200
            results = [
                {"success": True, "name": name, "relay": value, "confirmed": True}
                for name in ("lamp", "tv", "oven")
            ]
            assert answer.json() == {"success": True, "results": results}
            assert {house.relays()[name] for name in ("lamp", "tv", "oven")} == {is_closed}

    def test_each_has_a_result_of_its_own(self, house: House) -> None:
        orders = [{"name": name, "value": "open"} for name in ("gone", "lamp", "freezer")]
        answer = house.open.ask("POST", "/plugs/relays", json=orders)
        assert answer.status_code == 200
        assert answer.json()["success"] is False
        gone, lamp, freezer = answer.json()["results"]
        assert lamp == {"success": True, "name": "lamp", "relay": "open", "confirmed": True}
        for name, result in (("gone", gone), ("freezer", freezer)):
            assert (result["success"], result["name"]) == (False, name)
            assert "confirm" in result["error"]
        assert house.relays()["freezer"]


class TestStates:
    def test_list(self, house: House) -> None:
        house.open.press("lamp", "close")
        wait_for_readings(house.plugs.switches["lamp"], 2)
        answer = house.open.ask("GET", "/plugs")
        assert answer.status_code == 200
        states = {state["name"]: state for state in answer.json()}
        assert states.keys() == house.plugs.switches.keys()
        for state in states.values():
            assert state.keys() == {"name", "relay", "online", "power", "time"}
            assert abs(state["time"] - now_ms()) < 60_000
        lamp, tv, gone = (states[name] for name in ("lamp", "tv", "gone"))
        assert (lamp["relay"], lamp["online"], lamp["power"]) == ("close", True, 24.5)
        assert abs(lamp["time"] - now_ms()) < 3000
        assert tv["power"] is None  # that model does not measure
        assert (gone["online"], gone["relay"]) == (False, "close")

    def test_one(self, house: House) -> None:
        for value in ("open", "close"):
            house.open.press("tv", value)
            answer = house.open.ask("GET", "/plugs/tv/relay")
            state = answer.json()
            assert answer.status_code == 200
            assert state.keys() == {"name", "relay", "online", "time"}
            assert (state["name"], state["relay"], state["online"]) == ("tv", value, True)
            assert abs(state["time"] - now_ms()) < 3000

    def test_health_needs_no_token(self, house: House) -> None:
        assert house.secured.ask("GET", "/health").status_code == 200


def body(content: str | bytes, content_type: str = "application/json") -> dict[str, Any]:
    return {"data": content, "headers": {"Content-Type": content_type}}


def order(name: str = "lamp", value: object = "open", **more: object) -> dict[str, Any]:
    return {"json": [{"name": "tv", "value": "open"}, {"name": name, "value": value, **more}]}


LAMP = "/plugs/lamp/relay"
MANY = "/plugs/relays"
OPEN = {"json": {"value": "open"}}
REFUSALS: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", LAMP, {"json": {"value": "on"}}),
    (400, "POST", LAMP, {"json": {"value": "Open"}}),
    (400, "POST", LAMP, {"json": {"value": 1}}),
    (400, "POST", LAMP, {"json": {"value": ["open"]}}),
    (400, "POST", LAMP, {"json": {}}),
    (400, "POST", LAMP, {"json": []}),
    (400, "POST", LAMP, {"json": "open"}),
    (400, "POST", LAMP, {}),
    (400, "POST", f"{LAMP}?value=on", {}),
    (400, "POST", f"{LAMP}?value=", {}),
    (400, "POST", f"{LAMP}?Value=open", {}),
    (400, "POST", f"{LAMP}?value=open", {"json": {"value": "on"}}),
    (400, "POST", LAMP, body("open")),
    (400, "POST", LAMP, body('{"value": "open"')),
    (400, "POST", LAMP, body('{"value": "open"} {}')),
    (400, "POST", LAMP, body(b'\xff{"value": "open"}')),
    (400, "POST", LAMP, body('{"value": "open", "x": NaN}')),
    (400, "POST", LAMP, body("[" * 4000)),
    (400, "POST", MANY, {"json": {"name": "lamp", "value": "open"}}),
    (400, "POST", MANY, {"json": ["lamp"]}),
    (400, "POST", MANY, {"json": [{"name": "lamp"}]}),
    (400, "POST", MANY, {"json": [{"name": "tv", "value": "open"}, {"value": "open"}]}),
    (400, "POST", MANY, order(value="on")),
    (400, "POST", MANY, order(value=None)),
    (401, "POST", LAMP, OPEN | {"headers": {"X-Api-Key": ""}}),
    (401, "POST", LAMP, OPEN | {"headers": {"X-Api-Key": TOKEN[:-1].encode()}}),
    (401, "POST", LAMP, OPEN | {"headers": {"X-Api-Key": b"\xff\xc3\xb6"}}),
    (401, "POST", LAMP, OPEN | {"headers": {"Authorization": b"Bearer \xff\xc3\xb6"}}),
    (401, "POST", LAMP, OPEN | {"headers": {"Authorization": "Bearer"}}),
    (401, "POST", LAMP, OPEN | {"headers": {"Authorization": TOKEN.encode()}}),
    (401, "POST", LAMP, OPEN | {"headers": {"Authorization": b"Digest " + TOKEN.encode()}}),
    (401, "POST", LAMP, OPEN | {"headers": {"Authorization": "Basic !"}}),
    (401, "POST", LAMP, OPEN | {"headers": {"Authorization": "Basic bm9ib2R5"}}),
    (401, "POST", f"{LAMP}?token={TOKEN}", OPEN | {"headers": {"X-No-Key": "x"}}),
    (401, "POST", MANY, order() | {"headers": {"X-No-Key": "x"}}),
    (401, "GET", LAMP, {"headers": {"X-No-Key": "x"}}),
    (401, "GET", "/plugs", {"headers": {"X-No-Key": "x"}}),
    (403, "POST", "/plugs/hidden/relay", OPEN),
    (403, "POST", "/plugs/LAMP/relay", OPEN),
    (403, "POST", "/plugs/lamps/relay", OPEN),
    (403, "POST", "/plugs/*/relay", OPEN),
    (403, "POST", "/plugs/l%20mp/relay", OPEN),
    (403, "POST", MANY, order("hidden")),
    (403, "POST", LAMP, OPEN | {"headers": {"Origin": "http://evil.example"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Origin": "null"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Origin": "https://pi:3000"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Origin": "http://pi"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Origin": "http://pi:3000.evil.example"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Origin": "http://127.0.0.1"}}),
    (403, "GET", LAMP, {"headers": {"Origin": "http://evil.example"}}),
    (403, "GET", "/health", {"headers": {"Origin": "http://evil.example"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Host": "evil.example"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Host": "127.0.0.1.evil.example:8080"}}),
    (403, "POST", LAMP, OPEN | {"headers": {"Host": "evil@:8080"}}),
    (403, "GET", "/plugs", {"headers": {"Host": "evil.example"}}),
    (404, "POST", "/plugs/tx/relay", OPEN),
    (404, "GET", "/plugs/nobody/relay", {}),
    (404, "POST", MANY, order("tx")),
    (404, "GET", "/plugs/lamp", {}),
    (404, "POST", "/plugs/lamp/relay/", OPEN),
    (404, "POST", "/plugs/lamp/power", OPEN),
    (404, "GET", "/nothing", {}),
    (405, "PUT", LAMP, OPEN),
    (405, "PATCH", LAMP, OPEN),
    (405, "DELETE", LAMP, {}),
    (405, "TRACE", LAMP, {}),
    (405, "GET", f"{LAMP}?value=open", {}),
    (405, "GET", MANY, {}),
    (405, "PUT", MANY, order()),
    (405, "POST", "/plugs", OPEN),
    (405, "POST", "/health", OPEN),
    (413, "POST", LAMP, body('{"value": "open", "x": "' + 4096 * "x" + '"}')),
    (413, "POST", MANY, body(" " * 5000)),
    (415, "POST", LAMP, body('{"value": "open"}', "text/plain")),
    (415, "POST", LAMP, body('{"value": "open"}', "application/x-www-form-urlencoded")),
    (415, "POST", f"{LAMP}?value=open", body("", "text/plain")),
    (415, "POST", f"{LAMP}?value=open", {"data": {"value": "open"}}),
    (415, "POST", f"{LAMP}?value=open", {"files": {"value": "open"}}),
    (415, "POST", LAMP, {"data": b'{"value": "open"}'}),
    (415, "POST", MANY, body('[{"name": "lamp", "value": "open"}]', "text/plain")),
    (504, "POST", "/plugs/freezer/relay", OPEN),
    (504, "POST", "/plugs/gone/relay", OPEN),
]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (LAMP, [], '; expected {"value": "open"}, "close" or "toggle"'),
        (MANY, {}, '; expected [{"name": "PLUG", "value": "open"}, ...], "close" or "toggle"'),
    ],
)
def test_error_says_what_to_send_instead(
    house: House, path: str, content: object, expected: str
) -> None:
    answer = house.open.ask("POST", path, json=content)
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(expected)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "method", "path", "options"),
        REFUSALS,
        ids=[f"{r[0]} {r[1]} {r[2]} {str(r[3])[:50]}" for r in REFUSALS],
    )
    def test_nothing_moves(
        self, house: House, status: int, method: str, path: str, options: dict[str, Any]
    ) -> None:
        house.pass_fence(house.secured)
        before = house.relays()
        house.plugs.client.clear()
        answer = self.refused(house, status, method, path, options)
        if status == 405:
            assert answer.headers["Allow"]
            assert method not in answer.headers["Allow"].split(", ") or "?" in path
        if status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        house.pass_fence(house.secured)
        assert house.relays() == before
        if status != 504:  # sent, and refused by the plug
            assert {each.topic for each in house.commands()} == {command_topic("oven")}

    def refused(
        self, house: House, status: int, method: str, path: str, options: dict[str, Any]
    ) -> requests.Response:
        """See that a page of Grafana's can read the error; other pages and programs get none."""
        headers: dict[str, Any] = dict(options.get("headers", {}))
        if status != 401:
            headers |= WITH_TOKEN
        else:
            # Each from an address of its own: after a few wrong tokens it would be 429.
            options = options | {"address": f"127.0.1.{next(addresses)}"}
        if "Origin" not in headers and "Host" not in headers:
            headers["Origin"] = GRAFANA
        answer = house.secured.ask(method, path, **options | {"headers": headers})
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json().keys() == {"success", "error"}
        assert answer.json()["success"] is False
        assert len(answer.json()["error"]) > 5
        assert TOKEN not in answer.text
        assert_cors(answer, headers.get("Origin", ""))
        return answer

    def test_wrong_tokens_are_counted_by_address(self, house: House) -> None:
        def press(address: str, token: bytes) -> int:
            headers = {"Authorization": b"Bearer " + token, "Origin": GRAFANA.encode()}
            answer = house.secured.ask(
                "POST", "/plugs/oven/relay", **OPEN, headers=headers, address=address
            )
            assert_cors(answer, GRAFANA)
            if answer.status_code == 429:
                assert answer.json()["success"] is False
                assert int(answer.headers["Retry-After"]) > 0
            return answer.status_code

        before = moves(house.plugs.switches["oven"])
        statuses = [press("127.0.2.1", b"a wrong token") for _ in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        assert press("127.0.2.1", TOKEN.encode()) == 429
        assert moves(house.plugs.switches["oven"]) == before
        assert press("127.0.2.2", TOKEN.encode()) == 200
        log = house.secured.script.log()
        assert log.count("127.0.2.1: wrong token") == 2  # the first and the last that counts
        assert "a wrong token" not in log

    def test_body_of_unknown_length_is_too_long(self, house: House) -> None:
        chunks = iter([b'{"value": "toggle", "more": "', 4096 * b"x", b'"}'])
        options = {"data": chunks, "headers": {"Content-Type": "application/json"}}
        before = moves(house.plugs.switches["lamp"])
        self.refused(house, 413, "POST", LAMP, options)
        assert moves(house.plugs.switches["lamp"]) == before

    def test_body_much_too_long(self, house: House) -> None:
        with contextlib.suppress(requests.ConnectionError):  # it may hang up before the end
            answer = house.open.ask("POST", LAMP, **body(2 * 1024 * 1024 * " "))
            assert answer.status_code == 413
        assert house.open.ask("GET", "/health").ok

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    def test_foreign_page_cannot_press_by_get(self, house: House, headers: dict[str, str]) -> None:
        before = moves(house.plugs.switches["lamp"])
        answer = house.by_get.ask("GET", f"{LAMP}?value=toggle", headers=headers)
        assert answer.status_code == 403
        assert house.by_get.ask("HEAD", f"{LAMP}?value=toggle").status_code == 405
        assert house.by_get.ask("GET", f"{LAMP}?value=on").status_code == 400
        house.pass_fence(house.by_get)
        assert moves(house.plugs.switches["lamp"]) == before


addresses = itertools.count(1)


def assert_cors(answer: requests.Response, origin: str) -> None:
    """See that the page at `origin` may read this answer if it is one of Grafana's, else not."""
    headers = answer.headers
    assert "Origin" in headers["Vary"]
    if origin == GRAFANA:
        assert headers["Access-Control-Allow-Origin"] == origin
        assert headers["Access-Control-Allow-Credentials"] == "true"
    else:
        assert not [name for name in headers if name.lower().startswith("access-control")]


class TestCors:
    @pytest.mark.parametrize("path", [LAMP, MANY, "/plugs"])
    @pytest.mark.parametrize(
        "asked",
        [
            "content-type",
            "content-type,x-grafana-action",
            "content-type,x-grafana-action,x-grafana-device-id",
            "accept,authorization,content-type,x-api-key",
        ],
    )
    def test_preflight_of_grafana(self, house: House, path: str, asked: str) -> None:
        answer = self.preflight(house, path, GRAFANA, asked)
        assert answer.status_code == 204
        assert answer.content == b""
        assert_cors(answer, GRAFANA)
        methods = answer.headers["Access-Control-Allow-Methods"].upper().replace(" ", "").split(",")
        assert {"GET", "POST"} <= set(methods)
        allowed = answer.headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
        assert set(asked.split(",")) <= set(allowed)
        assert "*" not in allowed

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "https://pi:3000", "http://pi:3000.evil.example"]
    )
    def test_preflight_of_others(self, house: House, origin: str) -> None:
        answer = self.preflight(house, LAMP, origin, "content-type")
        assert answer.status_code == 403
        assert_cors(answer, origin)

    def test_preflight_where_no_origin_is_allowed(self, house: House) -> None:
        headers = {"Origin": GRAFANA, "Access-Control-Request-Method": "POST"}
        answer = house.open.ask("OPTIONS", LAMP, headers=headers)
        assert answer.status_code == 403
        assert_cors(answer, "")

    @pytest.mark.parametrize("origin", [None, GRAFANA])
    def test_answers(self, house: House, origin: str | None) -> None:
        headers = WITH_TOKEN | ({"Origin": origin.encode()} if origin else {})
        for method, path, options in (
            ("POST", LAMP, OPEN),
            ("POST", MANY, {"json": [{"name": "lamp", "value": "close"}]}),
            ("GET", "/plugs", {}),
            ("GET", LAMP, {}),
            ("GET", "/health", {}),
        ):
            answer = house.secured.ask(method, path, headers=headers, **options)
            assert answer.status_code == 200
            assert_cors(answer, origin or "")

    def preflight(self, house: House, path: str, origin: str, asked: str) -> requests.Response:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked,
        }
        return house.secured.ask("OPTIONS", path, headers=headers)


class TestConfirmation:
    """A plug of which only its messages exist: what it says decides."""

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
        with Mosquitto(tmp_path_factory.mktemp("confirmation") / "mosquitto") as broker:
            yield broker

    @pytest.fixture(scope="class")
    @classmethod
    def server(
        cls, tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto
    ) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("confirmation")
        with serving(folder, broker.port, "server", confirm_timeout=1.0) as server:
            yield server

    @pytest.fixture
    def client(self, broker: Mosquitto, server: Server) -> Iterator[MqttClient]:
        with MqttClient(broker.host, broker.port) as client:
            self.say(client, 0, now_ms(), retain=True)
            wait_until(lambda: self.is_open(server), 10, "the plug")
            client.clear()
            yield client

    def say(self, client: MqttClient, relay: int, time_ms: int, *, retain: bool = False) -> None:
        payload = {"value": relay, "unit": "", "time": time_ms}
        client.publish(state_topic("plug", "relay"), payload, retain=retain)

    def is_open(self, server: Server) -> bool:
        answer = server.ask("GET", "/plugs/plug/relay")
        return answer.ok and bool(answer.json()["relay"] == "open")

    def test_silence_is_no_confirmation(self, server: Server, client: MqttClient) -> None:
        began = time.monotonic()
        assert server.press("plug", "close").status_code == 504
        assert time.monotonic() - began < 3
        assert len(client.messages(command_topic("plug"))) == 1

    @pytest.mark.parametrize(("relay", "age_ms"), [(0, 0), (1, 60_000)])
    def test_another_state_is_none(
        self, server: Server, client: MqttClient, relay: int, age_ms: int
    ) -> None:
        """Neither is an old one that a plug's software had kept on disk."""
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(server.press, "plug", "close")
            client.wait_for(command_topic("plug"))
            self.say(client, relay, now_ms() - age_ms)
            assert answer.result().status_code == 504
        assert self.is_open(server)

    def test_its_own_word_is_one(self, server: Server, client: MqttClient) -> None:
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(server.press, "plug", "close")
            client.wait_for(command_topic("plug"))
            self.say(client, 1, now_ms())
            assert answer.result().json()["confirmed"] is True


class TestWithoutBroker:
    def test_refused_at_once_and_never_sent_later(self, house: House, tmp_path: Path) -> None:
        broker = house.plugs.broker
        with (
            FaultProxy(broker.port, http=False) as way,
            serving(tmp_path, way.port, "cut_off", allowed_origins=[GRAFANA]) as server,
        ):
            wait_until_known(server, set(house.plugs.switches))
            way.refuse()
            wait_until(lambda: server.ask("GET", "/health").status_code == 503, 10, "the loss")
            house.plugs.client.clear()
            before = moves(house.plugs.switches["lamp"])
            orders = [{"name": "lamp", "value": "toggle"}]
            for method, path, content in (
                ("POST", LAMP, {"value": "toggle"}),
                ("POST", MANY, orders),
                ("GET", "/health", None),
            ):
                began = time.monotonic()
                answer = server.ask(method, path, json=content, headers={"Origin": GRAFANA})
                assert answer.status_code == 503
                assert time.monotonic() - began < 2
                assert answer.json()["success"] is False
                assert_cors(answer, GRAFANA)
            way.pass_through()
            wait_until(lambda: server.ask("GET", "/health").ok, 20, "the connection")
            house.pass_fence(server)
            assert {each.topic for each in house.commands()} == {command_topic("oven")}
            assert moves(house.plugs.switches["lamp"]) == before

    def test_broker_that_comes_after_the_server(self, tmp_path: Path) -> None:
        broker = Mosquitto(tmp_path / "mosquitto")
        with serving(tmp_path, broker.port, "early", must_connect=False) as server:
            assert server.ask("GET", "/health").status_code == 503
            assert server.press("plug", "close").status_code == 503
            assert server.ask("GET", "/plugs").json() == []
            assert server.ask("GET", "/plugs/plug/relay").status_code == 404
            with broker, MqttClient(broker.host, broker.port) as client:
                wait_until(lambda: server.ask("GET", "/health").ok, 20, "the connection")
                client.wait_for(script_online_topic("button_server"))
                assert client.messages("@set/#") == []


class TestEnd:
    @pytest.mark.parametrize("state", ["pass_through", "blackhole"])
    def test_sigterm(self, house: House, tmp_path: Path, state: str) -> None:
        self.terminate_while_a_button_waits(house, tmp_path, state, "/plugs/gone/relay", OPEN)

    def test_sigterm_while_many_plugs_are_switched(self, house: House, tmp_path: Path) -> None:
        orders = {"json": [{"name": name, "value": "open"} for name in ("gone", "lamp")]}
        self.terminate_while_a_button_waits(house, tmp_path, "pass_through", MANY, orders)

    def terminate_while_a_button_waits(
        self, house: House, folder: Path, state: str, path: str, options: dict[str, Any]
    ) -> None:
        with (
            FaultProxy(house.plugs.broker.port, http=False) as way,
            serving(folder, way.port, "ending", confirm_timeout=30.0) as server,
            ThreadPoolExecutor() as pool,
        ):
            wait_until_known(server, set(house.plugs.switches))
            house.plugs.client.clear()
            waiting = pool.submit(server.ask, "POST", path, **options)
            house.plugs.client.wait_for(command_topic("gone"))
            getattr(way, state)()
            ended = server.script.terminate(timeout=6)
            assert ended.status == 0
            assert ended.seconds < 5
            assert "Traceback" not in server.script.log()
            with contextlib.suppress(requests.RequestException):  # an answer or none, but no wait
                assert waiting.result().status_code in (200, 503, 504)

    def test_sigterm_with_idle_connections(self, house: House, tmp_path: Path) -> None:
        with (
            serving(tmp_path, house.plugs.broker.port, "idle") as server,
            contextlib.ExitStack() as running,
        ):
            for begin in (b"", b"POST /plugs/lamp/relay HT", b"GET /plugs HTTP/1.1\r\nHost: x\r\n"):
                connection = socket.create_connection((HOST, server.port))
                running.enter_context(connection).sendall(begin)
            ended = server.script.terminate()
            assert ended.status == 0
            assert ended.seconds < 5
            assert "Traceback" not in server.script.log()

    def test_port_that_is_taken(self, house: House, tmp_path: Path) -> None:
        tables = {
            "MQTT": mqtt_table(house.plugs.broker.port, client_id="second"),
            "ButtonServer": {"port": house.open.port},
        }
        script = Script(SCRIPT, write_config(tmp_path / "c.toml", tables)).start()
        wait_until(lambda: not script.running, 10, "the end")
        assert script.terminate().status == 1
        assert len(script.log().splitlines()) == 1
        assert f"{HOST}:{house.open.port}" in script.log()
