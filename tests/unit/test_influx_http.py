"""The clients of InfluxDB 1 and 2: what they send, and what they make of any answer."""

import base64
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.process import free_port
from openenergy import config, influx
from openenergy.influx import Answer, Database, UnavailableError
from tests.unit.raw_server import HOST, Behaviour, RawServer, answering, http_answer, wait_for_close

BODY = b"power,switch=plug power=1.5 1763763243123\npower,switch=plug power=2.5 1763763244123"

Connect = Callable[..., Database]


def influxdb_1(port: int, **more: Any) -> Database:
    table = {"url": f"http://{HOST}:{port}", "database": "energy", **more}
    return influx.connect(config.InfluxDB(**table))


def influxdb_2(port: int, **more: Any) -> Database:
    table = {"url": f"http://{HOST}:{port}", "token": "s3cret", "org": "home", **more}
    return influx.connect(config.InfluxDB(**table))


BOTH = pytest.mark.parametrize("connect", [influxdb_1, influxdb_2])


def post_to(connect: Connect, behaviour: Behaviour) -> Answer:
    with RawServer(behaviour) as server:
        return connect(server.port).post(BODY)


def failure_of(connect: Connect, behaviour: Behaviour, **more: Any) -> str:
    with RawServer(behaviour) as server, pytest.raises(UnavailableError) as caught:
        connect(server.port, **more).post(BODY)
    assert not caught.value.is_configuration
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200
    return str(caught.value)


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


def parse(request: bytes) -> Request:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    method, target, _ = line.split(" ")
    parts = urlsplit(target)
    pairs = [header.split(": ", 1) for header in headers]
    fields = {name.lower(): value for name, value in pairs}
    return Request(method, parts.path, parse_qs(parts.query), fields, body)


# What they send


def test_influxdb_1_is_written_at_write_with_its_user() -> None:
    with RawServer(answering(http_answer(b"", status="204 No Content"))) as server:
        influxdb_1(server.port, username="writer", password="pä€s:s").post(BODY)
    method, path, query, headers, body = parse(server.requests[0])
    assert (method, path) == ("POST", "/write")
    assert query == {"db": ["energy"], "precision": ["ms"]}
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode() == (
        "writer:pä€s:s"
    )
    assert body == BODY


def test_influxdb_2_is_written_at_its_api_with_its_token() -> None:
    with RawServer(answering(http_answer(b"", status="204 No Content"))) as server:
        influxdb_2(server.port, org="Süd & West", bucket="a/b").post(BODY)
    method, path, query, headers, body = parse(server.requests[0])
    assert (method, path) == ("POST", "/api/v2/write")
    assert query == {"org": ["Süd & West"], "bucket": ["a/b"], "precision": ["ms"]}
    assert headers["authorization"] == "Token s3cret"
    assert body == BODY


@BOTH
def test_no_user_and_no_token_is_possible(connect: Connect) -> None:
    with RawServer(answering(http_answer(b"", status="204 No Content"))) as server:
        connect(server.port, **({} if connect is influxdb_1 else {"token": ""})).post(BODY)
    assert b"s3cret" not in server.requests[0]
    assert b"Basic" not in server.requests[0]


def test_a_path_in_the_url_is_kept() -> None:
    for slash in ("", "/"):
        with RawServer(answering(http_answer(b"", status="204 No Content"))) as server:
            for connect in (influxdb_1, influxdb_2):
                connect(0, url=f"http://{HOST}:{server.port}/influx{slash}").post(BODY)
        paths = [parse(request).path for request in server.requests]
        assert paths == ["/influx/write", "/influx/api/v2/write"]


@BOTH
def test_a_proxy_of_the_environment_is_not_used(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{HOST}:{free_port()}")
    assert post_to(connect, answering(http_answer(b"", status="204 No Content"))).status == 204


# Answers


@BOTH
@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_stored(connect: Connect, status: str) -> None:
    assert (
        influx.write(
            lambda _: post_to(connect, answering(http_answer(b"", status=status))), ["a b=1.0 1"]
        )
        == []
    )


@BOTH
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 502, 503, 504])
def test_a_refusal_comes_with_its_text_and_how_long_to_wait(connect: Connect, status: int) -> None:
    refusal = http_answer(
        b'{"error":"no"}', status=f"{status} No", headers="Retry-After: 17\r\nX-A: b\r\n"
    )
    assert post_to(connect, answering(refusal)) == Answer(status, '{"error":"no"}', "17")


@BOTH
def test_a_refusal_without_a_body_has_a_status(connect: Connect) -> None:
    answer = post_to(connect, answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"))
    assert (answer.status, answer.retry_after) == (503, None)


@BOTH
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_answer_like_others_and_not_followed(
    connect: Connect, status: int
) -> None:
    with RawServer(answering(http_answer(b"", status="204 No Content"))) as elsewhere:
        redirect = http_answer(
            b"", status=f"{status} Moved", headers=f"Location: http://{HOST}:{elsewhere.port}/\r\n"
        )
        assert post_to(connect, answering(redirect)).status == status
    assert elsewhere.requests == []


@BOTH
def test_a_connection_is_used_again_and_replaced_when_it_was_closed(connect: Connect) -> None:
    with RawServer(answering(http_answer(b"", status="204 No Content"))) as server:
        database = connect(server.port)
        for _ in range(3):
            assert database.post(BODY).status == 204
    assert len(server.requests) == 3


# No answer


@BOTH
def test_refused(connect: Connect) -> None:
    with pytest.raises(UnavailableError, match=r"^connection refused$"):
        connect(free_port()).post(BODY)


@BOTH
def test_tls_to_a_port_that_speaks_none(connect: Connect) -> None:
    with RawServer(answering(b"HTTP/1.1 400 Bad\r\n\r\n"), reads_requests=False) as server:
        database = connect(0, url=f"https://{HOST}:{server.port}")
        with pytest.raises(UnavailableError, match=r"(?i)ssl") as caught:
            database.post(BODY)
    assert "status" not in str(caught.value)


@BOTH
@pytest.mark.parametrize("url", ["http://no-such-host.invalid:8086", "http://256.256.256.256:1"])
def test_an_unknown_host(connect: Connect, url: str) -> None:
    with pytest.raises(UnavailableError, match="name"):
        connect(0, url=url).post(BODY)


@BOTH
@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 204", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{"],
    ids=["at once", "in the head", "in the body"],
)
def test_a_database_that_hangs(connect: Connect, beginning: bytes) -> None:
    def hang(connection: socket.socket) -> None:
        connection.sendall(beginning)
        wait_for_close(connection)

    began = time.monotonic()
    assert failure_of(connect, hang, timeout=0.2) == "no answer within 0.2 s"
    assert time.monotonic() - began < 5


BROKEN = [
    b"",
    b"hello\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n" + b"A: 1\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nshort",
    b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort",
    b"HTTP/1.1 400 Bad Request\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
]


@BOTH
@pytest.mark.parametrize("answer", BROKEN)
def test_an_answer_that_is_not_http(connect: Connect, answer: bytes) -> None:
    assert failure_of(connect, answering(answer))


LATIN_1 = http_answer("<h1>Überlastet</h1>".encode("latin-1"), status="502 Bad Gateway")


def test_influxdb_1_a_text_in_another_encoding_is_read_all_the_same() -> None:
    answer = post_to(influxdb_1, answering(LATIN_1))
    assert answer.status == 502
    assert "berlastet" in answer.text


def test_influxdb_2_a_text_in_another_encoding_is_no_answer() -> None:
    assert failure_of(influxdb_2, answering(LATIN_1)) == "its answer is not UTF-8"


def test_influxdb_1_an_endless_answer_is_read_up_to_64_kib() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 500 Oops\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    assert len(post_to(influxdb_1, behave).text) == influx.MAX_ANSWER


ANSWERS = st.tuples(
    st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 400 Bad\r\n", b"HTTP/1.1 500 Oops\r\n\r\n"]),
    st.sampled_from([b"", b"Retry-After: ", b"Content-Length: 5\r\n\r\n", b"Location: "]),
    st.binary(max_size=30),
    st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b'\r\n\r\n{"message":', b'"error"}']),
).map(b"".join)


@BOTH
@settings(max_examples=60)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=4))
def test_any_bytes_are_an_answer_or_none(connect: Connect, answers: list[bytes]) -> None:
    with RawServer(answering()) as server:
        database = connect(server.port)
        for answer in answers:
            server.behaviour = answering(answer)
            try:
                said = database.post(BODY)
            except UnavailableError:
                continue
            assert 100 <= said.status <= 999
            assert isinstance(said.text, str)


# --check


@BOTH
@pytest.mark.parametrize("status", ["204 No Content", "400 unable to parse: no points"])
def test_a_database_that_would_take_points_is_ok(connect: Connect, status: str) -> None:
    with RawServer(answering(http_answer(b"", status=status))) as server:
        influx.try_to_write(connect(server.port))
    (request,) = server.requests
    assert all(line.startswith(b"#") for line in parse(request).body.splitlines())


@BOTH
def test_one_with_a_wrong_setting_is_named_with_it(connect: Connect) -> None:
    refusal = http_answer(b'{"error":"unauthorized"}', status="401 Unauthorized")
    setting = "password" if connect is influxdb_1 else "token"
    with RawServer(answering(refusal)) as server, pytest.raises(OSError, match=setting) as caught:
        influx.try_to_write(connect(server.port))
    assert "unauthorized" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@BOTH
def test_one_that_is_not_there_or_overloaded_is_not_ok(connect: Connect) -> None:
    with pytest.raises(OSError, match=r"^connection refused$"):
        influx.try_to_write(connect(free_port()))
    with RawServer(answering(http_answer(b"busy", status="503 Oops"))) as server:
        database = connect(server.port)
        with pytest.raises(OSError, match=r"^status 503: busy$"):
            influx.try_to_write(database)


def test_the_database_is_named_without_its_secrets() -> None:
    databases = influxdb_1(1, username="u", password="s3cret"), influxdb_2(1)
    names = [database.name for database in databases]
    assert names == [f"http://{HOST}:1 database 'energy'", f"http://{HOST}:1 bucket 'energy'"]
    assert not any("s3cret" in f"{database!r}" for database in databases)
