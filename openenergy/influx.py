"""InfluxDB 1, 2 and 3: points, line protocol, writing, and which errors to retry.

Every field is a float, so that a series never changes its type; times are milliseconds.
"""

import email.utils
import re
import time
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from openenergy import config
from openenergy.topics import PayloadError

# An answer to a write that is larger than this is not InfluxDB's.
MAX_ANSWER: Final = 65536
LONGEST_RETRY_AFTER_S: Final = 600.0
# The least wait after an answer that only a mended configuration will change.
SLOW_RETRY_S: Final = 5.0


class Answer(NamedTuple):
    """What the database said to a write."""

    status: int
    text: str
    retry_after: str | None = None


class Rejection(NamedTuple):
    """A line that the database does not take, and why."""

    line: str
    reason: str


class UnavailableError(Exception):
    """The database takes no points now.

    `retry_after_s` is the least time to wait, or None; `is_configuration` means that only a
    mended configuration will help.
    """

    def __init__(
        self, reason: str, retry_after_s: float | None = None, *, is_configuration: bool = False
    ) -> None:
        """Keep the reason as the exception's text."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_configuration = is_configuration


class Remedy(Enum):
    """What to do about an answer."""

    NONE = "stored"
    BISECT = "find the points it does not take"
    SPLIT = "send less at a time"
    RETRY = "try again later"
    RETRY_SLOWLY = "the configuration or the database must be mended"


# The answers of InfluxDB's write API (1.x: /write; 2.x and 3: /api/v2/write). Any other status
# (429, 5xx, a proxy's own) may pass: Remedy.RETRY.
REMEDIES: Final[dict[int, Remedy]] = {
    HTTPStatus.OK: Remedy.NONE,
    HTTPStatus.NO_CONTENT: Remedy.NONE,
    HTTPStatus.BAD_REQUEST: Remedy.BISECT,
    HTTPStatus.UNPROCESSABLE_ENTITY: Remedy.BISECT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Remedy.SPLIT,
    HTTPStatus.UNAUTHORIZED: Remedy.RETRY_SLOWLY,
    HTTPStatus.FORBIDDEN: Remedy.RETRY_SLOWLY,
    HTTPStatus.NOT_FOUND: Remedy.RETRY_SLOWLY,
}


def series(measurement: str, tags: dict[str, str]) -> str:
    """Return a line up to its fields.

    A tag without a value is left out: line protocol knows no empty tag. Raises PayloadError for a
    measurement without a name.
    """
    parts = [_name(measurement, ", ")]
    for key, value in tags.items():
        if plain := _plain(value):
            parts.append(f"{key}={_escape(plain, ', =')}")
    return ",".join(parts)


def line_head(measurement: str, tags: dict[str, str], field: str) -> str:
    """Return a line up to and with the field's '=', for a series of one field.

    Raises PayloadError for a measurement or a field without a name.
    """
    return f"{series(measurement, tags)} {_field(field)}="


def line(head: str, value: float, time_ms: int) -> str:
    """Return a line of line protocol; `value` must be finite."""
    return f"{head}{value!r} {time_ms}"


def line_of_fields(its_series: str, fields: dict[str, float], time_ms: int) -> str:
    """Return a line with several fields, whose values must be finite.

    Raises PayloadError for a field without a name.
    """
    pairs = ",".join([f"{_field(key)}={value!r}" for key, value in fields.items()])
    return f"{its_series} {pairs} {time_ms}"


@lru_cache(maxsize=1000)
def _field(name: str) -> str:
    return _name(name, ", =")


def _name(text: str, special: str) -> str:
    """Escape a name; a line that begins with '#' would be a comment."""
    if name := _plain(text).lstrip("# "):
        return _escape(name, special)
    raise PayloadError(f"{text!r:.60} is no name for line protocol")


def _plain(text: str) -> str:
    """Replace what no escape can carry: control characters, a backslash."""
    return re.sub(r"[\x00-\x1f\x7f\\]+", " ", text).strip()


def _escape(plain: str, special: str) -> str:
    return re.sub(f"([{special}])", r"\\\1", plain)


class Database(Protocol):
    """A database that takes lines of line protocol."""

    name: str
    settings_named: str

    def post(self, body: bytes) -> Answer:
        """Write lines with times in milliseconds; raises UnavailableError if there is no answer."""

    def ping(self) -> Answer:
        """Write nothing, where a write would fail for the same reasons."""


class InfluxDB1:
    """InfluxDB 1.x: its /write endpoint."""

    settings_named = "[InfluxDB] database, username, password"

    def __init__(self, settings: config.InfluxDB) -> None:
        """Prepare a session; connects with the first write."""
        # Imported here: memory that InfluxDB 2 and 3 do not need.
        import requests  # noqa: PLC0415
        from requests.auth import HTTPBasicAuth  # noqa: PLC0415

        self.name = f"{settings.url} database {settings.database!r}"
        self._settings = settings
        self._session = requests.Session()
        self._session.trust_env = False
        if settings.username:
            # As bytes: requests would write texts as Latin-1, which InfluxDB does not read.
            self._session.auth = HTTPBasicAuth(
                settings.username.encode(), settings.password.encode()
            )
        self._write_url = f"{settings.url.rstrip('/')}/write"

    def post(self, body: bytes) -> Answer:
        """Write lines with times in milliseconds; raises UnavailableError if there is no answer."""
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            with self._session.post(
                self._write_url,
                params={"db": self._settings.database, "precision": "ms"},
                data=body,
                timeout=self._settings.timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                text = response.raw.read(MAX_ANSWER, decode_content=True).decode("utf-8", "replace")
                return Answer(response.status_code, text, response.headers.get("Retry-After"))
        except (HTTPError, OSError) as error:  # what requests raises is an OSError
            raise UnavailableError(_no_answer(error, self._settings.timeout)) from error

    def ping(self) -> Answer:
        """Write no line: InfluxDB 1.x looks at the database and the user all the same."""
        return self.post(b"")


class InfluxDB2:
    """InfluxDB 2 and 3, Cloud, VictoriaMetrics: /api/v2/write through influxdb-client.

    Its synchronous API, since its batching mode drops points when the database is away for long.
    """

    settings_named = "[InfluxDB] token, org, bucket"

    def __init__(self, settings: config.InfluxDB) -> None:
        """Prepare a client; connects with the first write."""
        # Imported here: 20 MB that InfluxDB 1.x does not need.
        from influxdb_client.client.influxdb_client import InfluxDBClient  # noqa: PLC0415
        from influxdb_client.client.write_api import SYNCHRONOUS  # noqa: PLC0415

        self.name = f"{settings.url} bucket {settings.bucket!r}"
        self._settings = settings
        self._client = InfluxDBClient(
            url=settings.url,
            token=settings.token,
            org=settings.org,
            timeout=int(settings.timeout * 1000),
        )
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

    def post(self, body: bytes) -> Answer:
        """Write lines with times in milliseconds; raises UnavailableError if there is no answer."""
        from influxdb_client.rest import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            self._api.write(
                bucket=self._settings.bucket,
                org=self._settings.org,
                record=body,
                write_precision="ms",  # type: ignore[arg-type]
            )
        except ApiException as error:
            if not error.status:  # the client's way to say that TLS failed
                raise UnavailableError(_no_answer(error, self._settings.timeout)) from error
            retry_after = error.headers.get("Retry-After") if error.headers else None
            return Answer(error.status, str(error.body or error.reason), retry_after)
        except (HTTPError, OSError) as error:
            raise UnavailableError(_no_answer(error, self._settings.timeout)) from error
        except UnicodeDecodeError as error:
            raise UnavailableError("its answer is not UTF-8") from error
        return Answer(HTTPStatus.NO_CONTENT, "")

    def ping(self) -> Answer:
        """Write a comment: no point, yet token, organisation and bucket are looked at."""
        return self.post(b"# openenergy --check\n")


def connect(settings: config.InfluxDB) -> Database:
    """Return the database that the configuration means."""
    return InfluxDB1(settings) if settings.database else InfluxDB2(settings)


def write(post: Callable[[bytes], Answer], lines: list[str]) -> list[Rejection]:
    """Write lines; return those that the database does not take, alone, with its reason.

    Raises UnavailableError when it takes no points at all now; some may have been stored then, and
    writing them again changes nothing.
    """
    answer = post("\n".join(lines).encode())
    remedy = REMEDIES.get(answer.status, Remedy.RETRY)
    if remedy is Remedy.NONE:
        return []
    if remedy in (Remedy.BISECT, Remedy.SPLIT):
        if len(lines) == 1:
            return [Rejection(lines[0], _short(answer.text))]
        middle = len(lines) // 2
        return write(post, lines[:middle]) + write(post, lines[middle:])
    raise _unavailable(answer, remedy)


def try_to_write(database: Database) -> None:
    """Ask for a write without a point, for `--check`; raises OSError with the reason."""
    try:
        answer = database.ping()
        remedy = REMEDIES.get(answer.status, Remedy.RETRY)
        if remedy in (Remedy.RETRY, Remedy.RETRY_SLOWLY):
            raise _unavailable(answer, remedy)
    except UnavailableError as error:
        if error.is_configuration:
            raise OSError(f"{error} ({database.settings_named})") from error
        raise OSError(str(error)) from error


def _unavailable(answer: Answer, remedy: Remedy) -> UnavailableError:
    """Return the exception for an answer that took no point."""
    reason = f"status {answer.status}: {_short(answer.text)}"
    wait_s = retry_after_s(answer.retry_after, time.time())
    if remedy is Remedy.RETRY_SLOWLY:
        return UnavailableError(reason, max(SLOW_RETRY_S, wait_s or 0.0), is_configuration=True)
    return UnavailableError(reason, wait_s)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Read a Retry-After header: seconds or a date (RFC 9110, section 10.2.3); 600 s at most."""
    if not header:
        return None
    if header.strip().isdecimal():
        wait_s = float(header)
    else:
        try:
            wait_s = email.utils.parsedate_to_datetime(header).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)


def _no_answer(error: Exception, timeout_s: float) -> str:
    """Say in a few words why there was no answer; a library's own text nests causes."""
    text = str(error)
    for sign, words in (
        ("refused", "connection refused"),
        ("timed out", f"no answer within {timeout_s:g} s"),
        ("Connection aborted", "it hung up"),
        ("Name or service not known", "its name is unknown"),
        ("Temporary failure in name resolution", "its name cannot be looked up"),
        ("certificate verify failed", "its certificate is not trusted"),
    ):
        if sign in text:
            return words
    return _short(text)


def _short(text: str) -> str:
    """Return `text` as one line of 200 characters at most."""
    return " ".join(text.split())[:200]
