#!/usr/bin/env python3
"""Turn the REST calls of Grafana's buttons into relay commands on MQTT, and confirm them."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any, Final, TypeVar

import flask
import msgspec
import paho.mqtt.client as mqtt
from waitress.server import create_server
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from openenergy import broker, clock, config, service, topics
from openenergy.guard import Guard

SCRIPT: Final = "button_server"
MAX_BODY: Final = 4096
# Plugs that a broker can make us remember.
MAX_PLUGS: Final = 1000
THREADS: Final = 16
NO_BROKER: Final = "there is no MQTT broker now"
EXPECTED_VALUE: Final = 'expected {"value": "open"}, "close" or "toggle"'

T = TypeVar("T")

log = logging.getLogger(SCRIPT)


def main() -> int:
    """Serve until told to stop."""
    arguments, settings = service.start(SCRIPT, __doc__ or "", ("MQTT",))
    if arguments.check:
        attempt = (
            f"broker {settings.mqtt.broker}:{settings.mqtt.port}",
            lambda: broker.try_connect(settings.mqtt, SCRIPT),
        )
        return service.check([attempt])

    stop = service.stop_event()
    plugs = Plugs()
    connection = broker.Broker(
        settings.mqtt,
        SCRIPT,
        filters=[
            topics.measurement_filter(settings.mqtt.prefix_update, quantity)
            for quantity in ("relay", "online", "power")
        ],
        on_message=plugs.take,
    )
    buttons = Buttons(settings, plugs, connection)
    web = settings.button_server
    try:
        server = create_server(
            application(Api(web, buttons, plugs, connection), Guard(web)),
            host=web.host,
            port=web.port,
            threads=THREADS,
            ident=None,
            connection_limit=50,
            channel_timeout=15,
            max_request_header_size=8192,
            # Flask answers 413 above MAX_BODY, as JSON; this only bounds what is read.
            max_request_body_size=1024 * 1024,
            inbuf_overflow=16384,
        )
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", web.host, web.port, error.strerror or error)
        return service.EXIT_FAILED
    connection.start()
    threading.Thread(target=server.run, name="http", daemon=True).start()
    log.info("listening on http://%s:%d", web.host, web.port)
    service.notify("READY=1")
    while not stop.wait(10):
        service.notify(f"STATUS={plugs.summary()}")
    service.notify("STOPPING=1")
    server.close()
    connection.stop()
    return service.EXIT_OK


@dataclass
class State:
    """What a plug said last; `power` in W, `time` in ms since 1970 UTC, None: not said yet."""

    name: str
    relay: str | None = None
    online: bool | None = None
    power: float | None = None
    time: int | None = None


class Plug:
    """A plug's state, and how often it reported its relay while we listened."""

    def __init__(self, name: str) -> None:
        """Begin without a word from it."""
        self.state = State(name)
        self.reports = 0

    def update(self, quantity: str, measurement: topics.Measurement, *, is_old: bool) -> None:
        """Take note of a measurement; an old one (retained) is a state, and no report."""
        if measurement.time is not None:
            self.state.time = max(measurement.time, self.state.time or 0)
        match quantity:
            case "relay":
                self.state.relay = "close" if measurement.value else "open"
                self.reports += not is_old
            case "online":
                self.state.online = bool(measurement.value)
            case "power":
                self.state.power = measurement.value


class Plugs:
    """The plugs as they describe themselves on MQTT."""

    def __init__(self) -> None:
        """Know none yet."""
        self._changed = threading.Condition()
        self._plugs: dict[str, Plug] = {}

    def take(self, _client: mqtt.Client, message: mqtt.MQTTMessage) -> None:
        """Take note of a measurement; called in the network thread."""
        try:
            name, quantity = topics.parse_measurement_topic(message.topic)
            measurement = topics.decode_measurement(bytes(message.payload))
        except (topics.PayloadError, UnicodeDecodeError) as error:
            log.debug("not a measurement: %.200s", error)
            return
        with self._changed:
            if name not in self._plugs and len(self._plugs) >= MAX_PLUGS:
                return
            plug = self._plugs.setdefault(name, Plug(name))
            plug.update(quantity, measurement, is_old=message.retain)
            self._changed.notify_all()

    def get(self, name: str) -> Plug | None:
        """Return a plug, None if its relay was never seen (a script is online, but no plug)."""
        with self._changed:
            plug = self._plugs.get(name)
        return plug if plug and plug.state.relay else None

    def all(self) -> list[Plug]:
        """Return every plug, by name."""
        with self._changed:
            known = [plug for plug in self._plugs.values() if plug.state.relay]
        return sorted(known, key=lambda plug: plug.state.name)

    def wait_for(self, name: str, relay: str, after: int, timeout_s: float) -> bool:
        """Wait until a plug reports `relay` in a report later than number `after`."""

        def has_reported() -> bool:
            plug = self._plugs[name]
            return plug.reports > after and plug.state.relay == relay

        with self._changed:
            return self._changed.wait_for(has_reported, timeout_s)

    def summary(self) -> str:
        """Return the counts for systemd."""
        plugs = self.all()
        return f"{len(plugs)} plugs, {sum(plug.state.online is True for plug in plugs)} online"


class CommandError(Exception):
    """A command that was not carried out, with the HTTP status that says so."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.status = status


class Wish(msgspec.Struct):
    """The body of a request for one plug, which its path names."""

    value: topics.Action


class Order(msgspec.Struct, frozen=True):
    """One press of a button."""

    name: str
    value: topics.Action


class Buttons:
    """Sends commands, one at a time to each plug, and waits for the plugs' own word."""

    def __init__(self, settings: config.Settings, plugs: Plugs, connection: broker.Broker) -> None:
        """Prepare."""
        self._settings = settings
        self._plugs = plugs
        self._connection = connection
        self._locks: dict[str, threading.Lock] = {}

    def require_possible(self, order: Order) -> None:
        """Raise CommandError if this plug cannot be switched."""
        if not topics.is_name(order.name) or not any(
            fnmatchcase(order.name, pattern) for pattern in self._settings.button_server.plugs
        ):
            raise CommandError(
                HTTPStatus.FORBIDDEN, f"{order.name:.80}: not one of the plugs allowed"
            )
        if not self._connection.connected:
            raise CommandError(HTTPStatus.SERVICE_UNAVAILABLE, NO_BROKER)
        if self._plugs.get(order.name) is None:
            raise CommandError(HTTPStatus.NOT_FOUND, f"{order.name}: never seen on the broker")

    def press(self, order: Order) -> dict[str, Any]:
        """Switch a plug; return the answer to the caller, or raise CommandError.

        One at a time: of two buttons pressed at once, each gets the answer to its own command.
        """
        with self._locks.setdefault(order.name, threading.Lock()):
            began = time.monotonic()
            plug = self._plugs.get(order.name)
            if plug is None:
                raise CommandError(HTTPStatus.NOT_FOUND, f"{order.name}: never seen on the broker")
            action = order.value
            if action is topics.Action.TOGGLE:
                is_closed = plug.state.relay == topics.Action.CLOSE
                action = topics.Action.OPEN if is_closed else topics.Action.CLOSE
            sent = self._connection.publish(
                topics.command_topic(self._settings.mqtt.prefix_set, order.name),
                topics.encode_command(action, clock.now_ms()),
                expiry_s=topics.COMMAND_EXPIRY_S,
            )
            if sent is None:
                raise CommandError(HTTPStatus.SERVICE_UNAVAILABLE, NO_BROKER)
            timeout_s = self._settings.button_server.confirm_timeout
            if not self._plugs.wait_for(order.name, action, plug.reports, timeout_s):
                log.warning("%s: %s not confirmed within %g s", order.name, action, timeout_s)
                raise CommandError(
                    HTTPStatus.GATEWAY_TIMEOUT,
                    f"{order.name} did not confirm within {timeout_s:g} s",
                )
        log.info(
            "%s: %s confirmed in %.0f ms", order.name, action, (time.monotonic() - began) * 1e3
        )
        return {"success": True, "name": order.name, "relay": action.value, "confirmed": True}


class Api:
    """What answers each request of the REST table."""

    def __init__(
        self,
        settings: config.ButtonServer,
        buttons: Buttons,
        plugs: Plugs,
        connection: broker.Broker,
    ) -> None:
        """Prepare."""
        self._settings = settings
        self._buttons = buttons
        self._plugs = plugs
        self._connection = connection

    def health(self) -> ResponseReturnValue:
        """Say whether commands can be sent."""
        if not self._connection.connected:
            return error_answer(HTTPStatus.SERVICE_UNAVAILABLE, NO_BROKER)
        return {"success": True}

    def list_plugs(self) -> ResponseReturnValue:
        """Describe every plug."""
        return flask.jsonify([dataclasses.asdict(plug.state) for plug in self._plugs.all()])

    def show_relay(self, name: str) -> ResponseReturnValue:
        """Describe one plug's relay, or switch it for a panel that can only GET."""
        if "value" in flask.request.args:
            if not self._settings.allow_get:
                raise CommandError(
                    HTTPStatus.METHOD_NOT_ALLOWED, "switch with POST ([ButtonServer] allow_get)"
                )
            return self.switch(name)
        plug = self._plugs.get(name)
        if plug is None:
            raise CommandError(HTTPStatus.NOT_FOUND, f"{name:.80}: never seen on the broker")
        return {key: getattr(plug.state, key) for key in ("name", "relay", "online", "time")}

    def switch(self, name: str) -> ResponseReturnValue:
        """Switch one plug."""
        order = Order(name, asked_action(flask.request))
        self._buttons.require_possible(order)
        return self._buttons.press(order)

    def switch_many(self) -> ResponseReturnValue:
        """Switch several plugs, or none if one of them cannot be switched."""
        orders = decode(json_body(flask.request), list[Order])
        for order in orders:
            self._buttons.require_possible(order)
        results = press_all(self._buttons, orders)
        return {"success": all(result["success"] for result in results), "results": results}


def application(api: Api, guard: Guard) -> flask.Flask:
    """Build the web application."""
    app = flask.Flask(SCRIPT, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.add_url_rule("/health", view_func=api.health)
    app.add_url_rule("/plugs", view_func=api.list_plugs)
    app.add_url_rule("/plugs/<name>/relay", view_func=api.show_relay)
    app.add_url_rule("/plugs/<name>/relay", view_func=api.switch, methods=["POST"])
    app.add_url_rule("/plugs/relays", view_func=api.switch_many, methods=["POST"])

    @app.before_request
    def refuse() -> ResponseReturnValue | None:
        if refusal := guard.refusal(flask.request):
            return error_answer(*refusal)
        return ("", HTTPStatus.NO_CONTENT) if flask.request.method == "OPTIONS" else None

    @app.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        guard.add_cors_headers(flask.request, response)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.errorhandler(CommandError)
    def command_failed(error: CommandError) -> ResponseReturnValue:
        return error_answer(error.status, str(error))

    @app.errorhandler(HTTPException)
    def request_failed(error: HTTPException) -> ResponseReturnValue:
        answer, code = error_answer(HTTPStatus(error.code or 500), error.name)
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            answer.headers["Allow"] = ", ".join(sorted(allowed))
        return answer, code

    return app


def press_all(buttons: Buttons, orders: list[Order]) -> list[dict[str, Any]]:
    """Switch several plugs at the same time; return one answer each."""

    def outcome(order: Order) -> dict[str, Any]:
        try:
            return buttons.press(order)
        except CommandError as error:
            return {"success": False, "name": order.name, "error": str(error)}

    with ThreadPoolExecutor(max_workers=max(1, len(orders))) as pool:
        return list(pool.map(outcome, orders))


def asked_action(request: flask.Request) -> topics.Action:
    """Return what a request asks of a relay: its JSON body's `value`, else its query's."""
    if request.content_length or request.content_type or "value" not in request.args:
        return decode(json_body(request), Wish).value
    try:
        return topics.Action(request.args["value"])
    except ValueError:
        raise CommandError(HTTPStatus.BAD_REQUEST, EXPECTED_VALUE) from None


def json_body(request: flask.Request) -> bytes:
    """Return a JSON body; a page of another origin cannot send one unasked."""
    body = request.get_data()  # raises 413 when it is too long
    if request.mimetype != "application/json":
        raise CommandError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected Content-Type: application/json"
        )
    return body


def decode(body: bytes, expected: type[T]) -> T:
    """Read a JSON body of the expected form."""
    try:
        return msgspec.json.decode(body, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(HTTPStatus.BAD_REQUEST, f"{error!s:.200}; {EXPECTED_VALUE}") from error


def error_answer(status: HTTPStatus, reason: str) -> tuple[flask.Response, int]:
    """Return an error as every caller gets it."""
    answer = flask.jsonify({"success": False, "error": reason})
    if status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="openenergy"'
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        answer.headers["Retry-After"] = "60"
    return answer, status.value


if __name__ == "__main__":
    sys.exit(main())
