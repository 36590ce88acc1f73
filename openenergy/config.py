"""credentials.toml -> validated, typed settings: the only place that knows its keys.

Each table is a dataclass below: a field's name is the key, its default the key's default, and its
type says what is allowed, both for msgspec to check and, as `description`, in the words that an
error shows. All errors of a file are found in one run.
"""

import dataclasses
import difflib
import os
import re
import ssl
import stat
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import tomli
from msgspec import Meta

from openenergy import topics

# Shorter tokens can be guessed; `openssl rand -hex 16` makes one of 32 characters.
MIN_TOKEN_LENGTH: Final = 12

# Labels as DNS and Python's socket module take them.
HOST_NAME: Final = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?"

Text = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f]{0,1024}\Z",
        description="text of one line, 1024 characters at most",
    ),
]
Texts = Annotated[tuple[Text, ...], Meta(description='a list of texts, like ["a", "b"]')]
# It travels in a HTTP header.
Token = Annotated[
    str, Meta(pattern=r"^[!-~]{0,1024}\Z", description="printable ASCII characters without spaces")
]
ClientId = Annotated[
    str, Meta(pattern=r"^[!-~]{0,64}\Z", description="64 ASCII characters at most, without spaces")
]
Flag = Annotated[bool, Meta(description="true or false")]
Seconds = Annotated[float, Meta(ge=0.05, le=86400, description="seconds, 0.05 to 86400")]
ShortSeconds = Annotated[float, Meta(ge=0.05, le=60, description="seconds, 0.05 to 60")]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]
Qos = Annotated[int, Meta(ge=0, le=1, description="0 or 1")]
Name = Annotated[str, Meta(pattern=topics.NAME_PATTERN, description=topics.NAME_EXPECTED)]
Host = Annotated[
    str,
    Meta(
        pattern=rf"^({HOST_NAME}|(?=.*:)[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?)\Z",
        max_length=253,
        description="a host name or an address",
    ),
]
HostAndPort = Annotated[
    str,
    Meta(
        pattern=rf"^(({HOST_NAME}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?)?\Z",
        max_length=253,
        description="a host name or an address, with :PORT if it is not 80",
    ),
]
MacAddress = Annotated[
    str,
    Meta(
        pattern=r"^(([0-9A-Fa-f]{2}[:. -]?){5}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}[.:-]){2}[0-9A-Fa-f]{4}"
        r"|([0-9A-Fa-f]{2}[:. -]?){2}[0-9A-Fa-f]{2})?\Z",
        description="a MAC address of 12 hexadecimal digits, or its last 6",
    ),
]
DnsDomain = Annotated[
    str,
    Meta(pattern=rf"^({HOST_NAME})?\Z", max_length=200, description='a DNS domain, like "lan"'),
]
Prefix = Annotated[
    str,
    Meta(
        pattern=r"^(?!\$)[^/+#\s\x00-\x1f]{1,64}\Z",
        description="one topic level without '/', '+', '#' or spaces, and no '$' before it",
    ),
]
# Its topics are longer by some 100 bytes; MQTT allows 65,535.
DiscoveryPrefix = Annotated[
    str,
    Meta(
        pattern=r"^(?![$/])(?!.*(//|/\Z))[^+#\s\x00-\x1f\x7f-\x9f]{1,64}\Z",
        description="topic levels without '+', '#' or spaces, no '$' before them, 64 characters"
        " at most",
    ),
]
ShareGroup = Annotated[
    str, Meta(pattern=r"^[^/+#\x00-\x1f]{0,64}\Z", description="a name without '/', '+' or '#'")
]
DevEui = Annotated[
    str,
    Meta(
        pattern=r"^(([0-9A-Fa-f?]|\[!?[0-9A-Fa-f-]{1,16}\]){16}"
        r"|(?=.*\*)[0-9A-Fa-f*?\[\]!-]{1,32})\Z",
        description="16 hexadecimal digits with nothing between them, or a shell pattern of them",
    ),
]


class ConfigError(Exception):
    """What is wrong with a configuration, one line per error."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Keep the lines apart: each is logged as an event of its own."""
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


# A table's method `contradictions` yields (keys, what was expected) for what no single key shows:
# the key to change, and behind a space any whose own error would explain it.


@dataclass(frozen=True)
class Mqtt:
    """Table [MQTT]: the broker, and how we speak to it."""

    broker: Host = "localhost"
    port: Port = 0  # until __post_init__: the protocol's own
    username: Text = ""
    password: Text = field(default="", repr=False)
    tls: Flag = False
    ca_file: Text = ""
    client_id: ClientId = ""
    qos: Qos = 1
    retain: Flag = True
    prefix_update: Prefix = "@update"
    prefix_set: Prefix = "@set"

    def __post_init__(self) -> None:
        """Fill in the port that belongs to the protocol."""
        if self.port == 0:
            object.__setattr__(self, "port", 8883 if self.tls else 1883)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield what does not fit together."""
        if self.password and not self.username:
            yield "password username", "a username with it"
        if self.ca_file and not self.tls:
            yield "ca_file tls", "tls = true with it"
        if self.ca_file and not _is_ca_file(self.ca_file):
            yield "ca_file", "a readable file of PEM certificates"
        if self.prefix_set == self.prefix_update:
            yield "prefix_set prefix_update", "another prefix than prefix_update"


@dataclass(frozen=True)
class InfluxDB:
    """Table [InfluxDB]: the database (`database` for 1.x; `token`, `org`, `bucket` for 2 and 3)."""

    url: Text = "http://localhost:8086"
    token: Token = field(default="", repr=False)
    org: Text = ""
    bucket: Text = ""  # until __post_init__: "energy" for InfluxDB 2 and 3
    database: Text = ""
    username: Text = ""
    password: Text = field(default="", repr=False)
    timeout: Seconds = 10.0
    batch: Annotated[int, Meta(ge=1, le=50000, description="points, 1 to 50000")] = 5000
    window: Annotated[int, Meta(ge=1, le=65535, description="messages, 1 to 65535")] = 5000
    session_expiry: Annotated[int, Meta(ge=0, lt=2**32, description="whole seconds")] = 604800
    topics: Texts = ()
    share_group: ShareGroup = ""

    def __post_init__(self) -> None:
        """Fill in the bucket's usual name."""
        if not (self.database or self.bucket):
            object.__setattr__(self, "bucket", "energy")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield what does not fit together."""
        if not _is_http_url(self.url):
            yield "url", "http://HOST:PORT or https://HOST:PORT"
        for key in ("token", "org", "bucket"):
            if self.database and getattr(self, key):
                yield key, "either database (InfluxDB 1.x) or token, org and bucket (2 and 3)"
        for key in ("username", "password"):
            if getattr(self, key) and not self.database:
                yield (
                    f"{key} database",
                    "database with it (InfluxDB 1.x; InfluxDB 2 and 3 take a token)",
                )
        for topic_filter in self.topics:
            if not topics.is_filter(topic_filter):
                yield "topics", f"MQTT topic filters, which {topic_filter!r:.60} is not"


@dataclass(frozen=True)
class MyStromSwitch:
    """Table [MyStromSwitch], or one of the array [[MyStromSwitch]]: one WiFi Switch."""

    name: Name = ""
    host: HostAndPort = ""
    macAdress: MacAddress = ""  # noqa: N815 - the key is spelled so in the founding document
    domain: DnsDomain = ""
    token: Token = field(default="", repr=False)
    interval: Seconds = 1.0
    timeout: ShortSeconds = 2.0
    read_only: Flag = False

    @property
    def mac(self) -> str:
        """The digits of macAdress, 12, 6 or none, in lower case."""
        return re.sub(r"[^0-9a-f]", "", self.macAdress.lower())

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield what does not fit together."""
        if not self.name:
            yield "name", topics.NAME_EXPECTED
        if not (self.host or self.macAdress):
            yield "host macAdress", "the switch's address, or its macAdress"
        if not _is_authority(self.host):
            yield "host", 'an address and port that exist, like "192.168.1.40" or "[fd00::40]:8080"'


@dataclass(frozen=True)
class ButtonServer:
    """Table [ButtonServer]: the REST server behind Grafana's buttons."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    token: Token = field(default="", repr=False)
    allowed_origins: Texts = ()
    plugs: Texts = ("*",)
    allow_get: Flag = False
    confirm_timeout: ShortSeconds = 3.0

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield what does not fit together."""
        if self.token and len(self.token) < MIN_TOKEN_LENGTH:
            yield "token", f"{MIN_TOKEN_LENGTH} characters or more"
        if not self.token and not self.is_loopback():
            yield "token", f"a token, since host = {self.host!r} can be reached from other machines"
        for origin in self.allowed_origins:
            if not _is_http_url(origin) or urlsplit(origin).path:
                yield (
                    "allowed_origins",
                    f'origins like "http://pi:3000", which {_shown(origin)} is not',
                )

    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        return re.fullmatch(r"localhost|127(\.\d{1,3}){3}|::1", self.host) is not None


@dataclass(frozen=True)
class HomeAssistant:
    """Table [HomeAssistant]: whether the switches are announced to Home Assistant."""

    discovery: Flag = False
    prefix: DiscoveryPrefix = "homeassistant"


@dataclass(frozen=True)
class Storage:
    """Table [Storage]: the folder for what must outlive a restart."""

    state: Text = ""
    spool_size: Annotated[int, Meta(ge=65536, description="bytes, 65536 or more")] = 268435456

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield a home folder that does not exist."""
        try:
            Path(self.state).expanduser()
        except RuntimeError:
            yield "state", "the home folder of a user that exists"

    def folder(self) -> Path:
        """Return the configured folder, else systemd's StateDirectory=, else one of the user's."""
        if self.state:
            return Path(self.state).expanduser()
        by_systemd = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(by_systemd) if by_systemd else Path.home() / ".local/state/openenergy"


@dataclass(frozen=True)
class LoRaWANDevice:
    """One of the array [[LoRaWAN.devices]]: which decoder reads the frames of which devices."""

    dev_eui: DevEui = ""
    decoder: Text = ""
    period: Annotated[float, Meta(ge=0, le=10**7, description="seconds")] = 0

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield what is missing, and a decoder that does not exist."""
        from openenergy.lorawan import decoders  # noqa: PLC0415 - memory that few scripts need

        for key in ("dev_eui", "decoder"):
            if not getattr(self, key):
                yield key, "a value: it has no default"
        try:
            if self.decoder:
                decoders.canonical(self.decoder)
        except decoders.UnknownDecoderError as error:
            yield "decoder", f"the name of a decoder; {error.hint}"


@dataclass(frozen=True)
class LoRaWAN:
    """Table [LoRaWAN]: the uplinks to store, and how to read them."""

    topics: Texts = ()
    devices: tuple[LoRaWANDevice, ...] = ()

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield what is no topic filter."""
        for topic_filter in self.topics:
            if not topics.is_filter(topic_filter):
                yield "topics", f"MQTT topic filters, which {topic_filter!r:.60} is not"


Table = (
    Mqtt
    | InfluxDB
    | MyStromSwitch
    | ButtonServer
    | HomeAssistant
    | Storage
    | LoRaWANDevice
    | LoRaWAN
)
T = TypeVar("T", bound=Table)


@dataclass(frozen=True)
class Settings:
    """A whole configuration. Tables that the file leaves out have their defaults."""

    path: Path
    mqtt: Mqtt
    influxdb: InfluxDB
    switches: tuple[MyStromSwitch, ...]
    button_server: ButtonServer
    home_assistant: HomeAssistant
    storage: Storage
    lorawan: LoRaWAN


def load(path: Path, needed_tables: tuple[str, ...]) -> Settings:
    """Read the configuration at `path`.

    Raises ConfigError with a line for every error of the file.
    """
    reader = _Reader(path)
    data = reader.read(needed_tables)
    settings = Settings(
        path=path,
        mqtt=reader.table(Mqtt, "[MQTT]", data.get("MQTT", {})),
        influxdb=reader.table(InfluxDB, "[InfluxDB]", data.get("InfluxDB", {})),
        switches=reader.tables(MyStromSwitch, "MyStromSwitch", data.get("MyStromSwitch", [])),
        button_server=reader.table(ButtonServer, "[ButtonServer]", data.get("ButtonServer", {})),
        home_assistant=reader.table(
            HomeAssistant, "[HomeAssistant]", data.get("HomeAssistant", {})
        ),
        storage=reader.table(Storage, "[Storage]", data.get("Storage", {})),
        lorawan=reader.table(LoRaWAN, "[LoRaWAN]", data.get("LoRaWAN", {})),
    )
    for error in _contradictions_between_tables(settings):
        reader.error(error)
    if reader.errors:
        raise ConfigError(reader.errors)
    return settings


def _contradictions_between_tables(settings: Settings) -> Iterator[str]:
    names = [switch.name for switch in settings.switches]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        yield f"[MyStromSwitch] name = {name!r}: expected another name for each switch"
    if settings.home_assistant.discovery:
        if not settings.mqtt.retain:
            yield (
                "[HomeAssistant] discovery = True: expected retain = true in [MQTT] with it: Home"
                " Assistant asks nobody for states, it only hears those that are retained"
            )
        prefix = settings.home_assistant.prefix
        if prefix.partition("/")[0] in (settings.mqtt.prefix_update, settings.mqtt.prefix_set):
            yield (
                f"[HomeAssistant] prefix = {_shown(prefix)}: expected another first level than"
                " prefix_update and prefix_set of [MQTT]"
            )


def is_exposed(path: Path) -> bool:
    """Whether others than the file's owner and group may read it."""
    return bool(path.stat().st_mode & stat.S_IROTH)


class _Reader:
    """Turns tables into dataclasses and collects what is wrong with them."""

    TABLES = (
        *("MQTT", "InfluxDB", "MyStromSwitch", "ButtonServer"),
        *("HomeAssistant", "Storage", "LoRaWAN"),
    )
    SPELLINGS: typing.ClassVar = {"macAddress": "macAdress"}

    def __init__(self, path: Path) -> None:
        self._path = path
        self.errors: list[str] = []

    def error(self, text: str) -> None:
        self.errors.append(f"{self._path}: {text}")

    def read(self, needed_tables: tuple[str, ...]) -> dict[str, Any]:
        """Parse the file; a file that cannot be parsed has no further errors to find."""
        try:
            data = tomli.loads(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([f"{self._path}: expected UTF-8 text"]) from error
        except (tomli.TOMLDecodeError, RecursionError, ValueError) as error:
            raise ConfigError([f"{self._path}: not TOML: {error}"]) from error
        for table in data:
            if table not in self.TABLES:
                self.error(f"{table!r:.60} is no table{_suggestion(table, self.TABLES)}")
        for table in needed_tables:
            if table not in data or data[table] == []:
                self.error(f"[{table}] is missing: expected this table")
        return data

    def tables(self, cls: type[T], name: str, data: Any) -> tuple[T, ...]:
        """Read [NAME], or every [[NAME]]."""
        if not isinstance(data, list):
            return (self.table(cls, f"[{name}]", data),)
        return tuple(
            self.table(cls, f"[[{name}]] number {number}", one)
            for number, one in enumerate(data, 1)
        )

    def table(self, cls: type[T], where: str, data: Any) -> T:
        """Read one table; a key in error keeps its default so that the others are looked at too."""
        if not isinstance(data, dict):
            self.error(f"{where} = {_shown(data)}: expected a table")
            return cls()
        hints = typing.get_type_hints(cls, include_extras=True)
        secret = {entry.name for entry in dataclasses.fields(cls) if not entry.repr}
        values: dict[str, Any] = {}
        faulty: set[str] = set()
        for written, value in data.items():
            key = self.SPELLINGS.get(written, written)
            if key not in hints:
                self.error(f"{where} {written!r:.60}: unknown key{_suggestion(written, hints)}")
            elif key in values:
                self.error(f"{where} {written}: expected only one of the two spellings of {key}")
            elif hints[key] == tuple[LoRaWANDevice, ...]:
                values[key] = self.tables(LoRaWANDevice, "LoRaWAN.devices", value)
            else:
                try:
                    values[key] = msgspec.convert(value, hints[key])
                except msgspec.ValidationError:
                    faulty.add(key)
                    shown = "(hidden)" if key in secret else _shown(value)
                    expected = hints[key].__metadata__[-1].description
                    self.error(f"{where} {written} = {shown}: expected {expected}")
        table = cls(**values)
        for keys, expected in table.contradictions() if hasattr(table, "contradictions") else ():
            key, *others = keys.split()
            if faulty.isdisjoint((key, *others)):
                shown = (
                    "(hidden)" if key in secret and values.get(key) else _shown(getattr(table, key))
                )
                self.error(f"{where} {key} = {shown}: expected {expected}")
        return table


def _is_http_url(text: str) -> bool:
    """Whether `text` is scheme, host and perhaps port and path, with no secret in it."""
    url = rf"https?://({HOST_NAME}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?(/[\w./~%+-]*)?"
    return bool(re.fullmatch(url, text, re.ASCII)) and _is_authority(text.split("/")[2])


def _is_authority(text: str) -> bool:
    """Whether HOST or HOST:PORT has a port and, in brackets, an IPv6 address that can be."""
    try:
        return urlsplit(f"//{text}").port != 0
    except ValueError:
        return False


def _is_ca_file(path: str) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # of ssl too
        return False
    return True


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near:  # letter case alone may be too far for difflib: "mqtt"
        near = [name for name in known if name.lower() == word.lower()]
    return f"; did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    """Return a value as an error shows it: short, and without a secret that stands in it."""
    if isinstance(value, dict) or (isinstance(value, list) and dict in map(type, value)):
        return "(a table)"
    written = list(value) if isinstance(value, tuple) else value
    text = re.sub(r"//.*@", "//(hidden)@", f"{written!r}")
    return re.sub(r"\?.*", "?(hidden)", text)[:80] if "//" in text else text[:80]
