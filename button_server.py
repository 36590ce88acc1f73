#!/usr/bin/env python3
"""Turn the REST calls of Grafana's buttons into relay commands on MQTT, and confirm them."""

from __future__ import annotations

import logging
import sys
import threading
import time
from fnmatch import fnmatchcase
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import flask
import msgspec
from flask.typing import ResponseReturnValue
from waitress.server import create_server
from werkzeug.exceptions import HTTPException

from openenergy import broker, config, service, topics
from openenergy.guard import Guard
from openenergy.plugs import QUANTITIES, Plugs, Sent, State

SCRIPT: Final = "button_server"
# The page holds no data, so that it needs no token; what it asks for does.
PAGE_FOLDER: Final = Path(__file__).resolve().parent / "openenergy" / "page"
PAGE: Final = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/icon.svg": "icon.svg",
}
MAX_BODY: Final = 4096
# A press holds one until its plug confirms; the page's questions are short and share the rest.
THREADS: Final = 32
# Presses that are under way may still be answered when we are told to stop.
FAREWELL_S: Final = 2
NO_BROKER: Final = "there is no MQTT broker now"
EXPECTED_VALUE: Final = 'expected {"value": "open"}, "close" or "toggle"'
EXPECTED_ORDERS: Final = 'expected [{"name": "PLUG", "value": "open"}, ...], "close" or "toggle"'

T = TypeVar("T")

log = logging.getLogger(SCRIPT)


def main() -> int:
    """Serve until told to stop."""
    arguments, settings = service.start(SCRIPT, __doc__ or "", ("MQTT",))
    if arguments.check:
        return service.check([broker.attempt(settings.mqtt, SCRIPT)])

    stop = service.stop_event()
    plugs = Plugs()
    connection = broker.Broker(
        settings.mqtt,
        SCRIPT,
        filters=[
            topics.measurement_filter(settings.mqtt.prefix_update, quantity)
            for quantity in QUANTITIES
        ],
        on_messages=plugs.take,
    )
    web = settings.button_server
    api = Api(web, Buttons(settings, plugs, connection), plugs, connection)
    guard = Guard(web, open_paths={"/health", *PAGE})
    try:
        server = create_server(application(api, guard), host=web.host, port=web.port, **LIMITS)
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", web.host, web.port, error.strerror or error)
        return service.EXIT_FAILED
    connection.start()
    threading.Thread(target=server.run, name="http", daemon=True).start()
    log.info("listening on http://%s:%d", web.host, web.port)
    service.serve_until(stop, plugs.summary)
    server.task_dispatcher.shutdown(timeout=FAREWELL_S)
    connection.stop()
    return service.EXIT_OK


LIMITS: Final[dict[str, Any]] = {
    "threads": THREADS,
    "connection_limit": 100,
    "channel_timeout": 15,  # s; a connection without a word is closed
    "cleanup_interval": 5,
    "max_request_header_size": 8192,
    # Flask answers 413 above MAX_BODY, as JSON; this only bounds what is read.
    "max_request_body_size": 1024 * 1024,
    "inbuf_overflow": 16384,
    "ident": None,
    # nginx on this machine says for whom it asks. What others say is not believed.
    "trusted_proxy": "127.0.0.1",
    "trusted_proxy_headers": {"x-forwarded-for"},
}


class CommandError(Exception):
    """A command that was not carried out, with the HTTP status that says so."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.status = status


class Wish(msgspec.Struct):
    """The body of a request for one plug, which its path names."""

    value: topics.Action | None = None


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
        self._timeout_s = settings.button_server.confirm_timeout
        self._turns: dict[str, threading.Lock] = {}

    def require_possible(self, order: Order) -> None:
        """Raise CommandError if a plug cannot be switched."""
        if not topics.is_name(order.name) or not any(
            fnmatchcase(order.name, pattern) for pattern in self._settings.button_server.plugs
        ):
            raise CommandError(
                HTTPStatus.FORBIDDEN, f"{order.name:.80}: not one of the plugs allowed"
            )
        if not self._connection.connected:
            raise CommandError(HTTPStatus.SERVICE_UNAVAILABLE, NO_BROKER)
        known(self._plugs, order.name)

    def press(self, order: Order) -> dict[str, Any]:
        """Switch a plug; return the answer to the caller, or raise CommandError.

        One at a time: of two buttons pressed at once, each gets the answer to its own command.
        Behind one to a plug that is offline nobody waits, so that it cannot hold every thread.
        """
        turn = self._turns.setdefault(order.name, threading.Lock())
        is_offline = known(self._plugs, order.name).online is False
        if not turn.acquire(timeout=0 if is_offline else self._timeout_s):
            raise CommandError(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"{order.name} did not confirm an earlier command yet; nothing was sent",
            )
        try:
            relay = self._switch(order)
        finally:
            turn.release()
        return {"success": True, "name": order.name, "relay": relay.value, "confirmed": True}

    def _switch(self, order: Order) -> topics.Action:
        """Send a command and wait until the plug reports what it asked for; return that."""
        relay = order.value
        if relay is topics.Action.TOGGLE:
            is_closed = known(self._plugs, order.name).relay is topics.Action.CLOSE
            relay = topics.Action.OPEN if is_closed else topics.Action.CLOSE
        sent = Sent.now()
        if not self._connection.publish(
            topics.command_topic(self._settings.mqtt.prefix_set, order.name),
            topics.encode_command(relay, sent.unix_ms),
            qos=topics.COMMAND_QOS,
            expiry_s=topics.COMMAND_EXPIRY_S,
        ):
            raise CommandError(HTTPStatus.SERVICE_UNAVAILABLE, NO_BROKER)
        if not self._plugs.wait_until_reported(order.name, relay, sent, self._timeout_s):
            log.warning("%s: %s not confirmed within %g s", order.name, relay, self._timeout_s)
            raise CommandError(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"{order.name} did not confirm within {self._timeout_s:g} s",
            )
        took_ms = (time.monotonic() - sent.monotonic_s) * 1000
        log.info("%s: %s confirmed in %.0f ms", order.name, relay, took_ms)
        return relay


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
            raise CommandError(HTTPStatus.SERVICE_UNAVAILABLE, NO_BROKER)
        return {"success": True}

    def list_plugs(self) -> ResponseReturnValue:
        """Describe every plug."""
        return flask.jsonify([state._asdict() for state in self._plugs.states()])

    def show_power(self) -> ResponseReturnValue:
        """Return the course of every plug's power, for the page's plots."""
        since_ms = flask.request.args.get("since", default=0, type=int)
        return flask.jsonify(self._plugs.power_since(since_ms))

    def show_relay(self, name: str) -> ResponseReturnValue:
        """Describe one plug's relay, or switch it for a panel that can only GET."""
        if "value" in flask.request.args:
            if flask.request.method != "GET" or not self._settings.allow_get:
                raise CommandError(
                    HTTPStatus.METHOD_NOT_ALLOWED, "switch with POST ([ButtonServer] allow_get)"
                )
            return self.switch(name)
        state = known(self._plugs, name)._asdict()
        del state["power"]
        return state

    def switch(self, name: str) -> ResponseReturnValue:
        """Switch one plug."""
        order = Order(name, asked_action(flask.request))
        self._buttons.require_possible(order)
        return self._buttons.press(order)

    def switch_many(self) -> ResponseReturnValue:
        """Switch several plugs at the same time, or none if one of them cannot be switched."""
        orders = decode(json_body(flask.request), list[Order], EXPECTED_ORDERS)
        if len({order.name for order in orders}) < len(orders):
            raise CommandError(HTTPStatus.BAD_REQUEST, "expected each plug once")
        for order in orders:
            self._buttons.require_possible(order)

        results: list[dict[str, Any]] = [{} for _ in orders]

        def press(number: int, order: Order) -> None:
            try:
                results[number] = self._buttons.press(order)
            except CommandError as error:
                results[number] = {"success": False, "name": order.name, "error": str(error)}

        # Threads of a pool would be waited for when we are told to stop.
        threads = [
            threading.Thread(target=press, args=each, daemon=True) for each in enumerate(orders)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"success": all(result["success"] for result in results), "results": results}


def application(api: Api, guard: Guard) -> flask.Flask:
    """Build the web application."""
    app = flask.Flask(SCRIPT, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.merge_slashes = False
    app.add_url_rule("/health", view_func=api.health)
    app.add_url_rule("/plugs", view_func=api.list_plugs)
    app.add_url_rule("/plugs/power", view_func=api.show_power)
    app.add_url_rule("/plugs/<name>/relay", view_func=api.show_relay)
    app.add_url_rule("/plugs/<name>/relay", view_func=api.switch, methods=["POST"])
    app.add_url_rule("/plugs/relays", view_func=api.switch_many, methods=["POST"])
    for path, file in PAGE.items():
        app.add_url_rule(path, file, partial(flask.send_from_directory, PAGE_FOLDER, file))

    @app.before_request
    def refuse() -> ResponseReturnValue | None:
        if refusal := guard.refusal(flask.request):
            return error_answer(*refusal)
        return ("", HTTPStatus.NO_CONTENT) if flask.request.method == "OPTIONS" else None

    @app.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        guard.add_headers(flask.request, response)
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


def known(plugs: Plugs, name: str) -> State:
    """Return a plug's state; raise CommandError if it was never seen."""
    state = plugs.state(name)
    if state is None:
        raise CommandError(HTTPStatus.NOT_FOUND, f"{name:.80}: never seen on the broker")
    return state


def asked_action(request: flask.Request) -> topics.Action:
    """Return what a request asks of a relay: `value` of its JSON body, else of its query.

    Grafana sends a body with every POST: an empty object when a button has nothing to put there.
    """
    wish = Wish()
    if request.content_length or request.content_type:
        body = json_body(request)
        wish = decode(body, Wish, EXPECTED_VALUE) if body else wish
    try:
        return wish.value or topics.Action(request.args.get("value", ""))
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


def decode(body: bytes, form: type[T], expected: str) -> T:
    """Read a JSON body of this form; raise CommandError with what was expected."""
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(HTTPStatus.BAD_REQUEST, f"{error!s:.200}; {expected}") from error


def error_answer(status: HTTPStatus, reason: str) -> tuple[flask.Response, int]:
    """Return an error as every caller gets it."""
    answer = flask.jsonify({"success": False, "error": reason})
    if status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="openenergy"'
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        answer.headers["Allow"] = "POST"  # of a GET that would switch; the router knows the others
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        answer.headers["Retry-After"] = "60"
    return answer, status.value


if __name__ == "__main__":
    sys.exit(main())
