#!/usr/bin/python3
"""Give the users of mosquitto the passwords that our configurations have.

A SOURCE is a configuration, whose [MQTT] username and password are taken; or the name of another
user of the access list, whose password is asked for (or read from standard input, a line each).
Users that are not named keep theirs. Neither the command line nor the output has a password.
A configuration of the user plug_2_mqtt also adds to the access list that it measures for the
switches there.
"""

import argparse
import base64
import getpass
import hashlib
import hmac
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path("/etc/mosquitto/openenergy")
OWNER = "mosquitto"
# The user that measures for its own switches alone.
PLUGS = "plug_2_mqtt"
# As short as button_server.py's shortest token.
MIN_PASSWORD_LENGTH = 12
# As mosquitto_passwd has it, with PBKDF2 and SHA-512: random passwords need no more.
ITERATIONS = 101
SALT_BYTES = 12


class UserError(Exception):
    """What the caller has to correct, in one line."""


def main() -> int:
    """Read what is wanted, change what differs; return the exit status."""
    description, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=description, epilog=more)
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a configuration, or a user")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    arguments = parser.parse_args()
    acl: Path = arguments.folder / "acl"
    try:
        passwords, rules = read_sources(arguments.sources, users_of(acl))
        update(arguments.folder / "passwords", passwords)
        allow(acl, rules)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0


def users_of(acl: Path) -> list[str]:
    """Return the users that the access list knows."""
    return re.findall(r"^user (.+)$", acl.read_text("utf-8"), re.MULTILINE)


def read_sources(sources: list[str], users: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the password of each user that is wanted, and the rules that PLUGS needs."""
    passwords: dict[str, str] = {}
    rules: list[str] = []
    for source in sources:
        if source in users:
            user, password = ask(source)
        else:
            configuration = load(Path(source))
            user, password = read(source, configuration["MQTT"], users)
            rules += own_rules(source, configuration) if user == PLUGS else []
        if passwords.setdefault(user, password) != password:
            raise UserError(
                f"{source}: [MQTT] password: expected the one that {user!r} has in another file"
            )
    return passwords, rules


def ask(user: str) -> tuple[str, str]:
    """Return a user, and the password that is typed."""
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {user}: ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    check(f"Password of {user}", password)
    return user, password


def load(path: Path) -> dict[str, Any]:
    """Return a configuration that has a table [MQTT]."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # of UTF-8, of TOML
        raise UserError(f"{path}: not TOML: {error}") from None
    if not isinstance(data.get("MQTT"), dict):
        raise UserError(f"{path}: [MQTT] is missing: expected this table")
    return data


def read(path: str, table: dict[str, Any], users: list[str]) -> tuple[str, str]:
    """Return the user and the password of a table [MQTT]."""
    user, password = table.get("username", ""), table.get("password", "")
    if user not in users:
        raise UserError(f"{path}: [MQTT] username = {user!r}: expected one of {', '.join(users)}")
    check(f"{path}: [MQTT] password", password)
    return user, password


def own_rules(path: str, configuration: dict[str, Any]) -> list[str]:
    """Return the rules by which a user measures for the switches of its configuration."""
    prefix = configuration["MQTT"].get("prefix_update", "@update")
    switches = configuration.get("MyStromSwitch", [])
    rules = []
    for switch in switches if isinstance(switches, list) else [switches]:
        name = switch.get("name", "") if isinstance(switch, dict) else switch
        for key, level in (("[MQTT] prefix_update", prefix), ("[MyStromSwitch] name", name)):
            if not re.fullmatch(r"[^/+#\s]+", str(level)):
                raise UserError(f"{path}: {key} = {level!r}: expected one level of a topic")
        rules.append(f"topic write {prefix}/{name}/monitoring/+")
    return rules


def check(where: str, password: object) -> None:
    """Raise UserError for what is no good password."""
    is_text = isinstance(password, str) and password.isprintable()
    if not is_text or len(str(password)) < MIN_PASSWORD_LENGTH:
        raise UserError(
            f"{where} = (hidden): expected {MIN_PASSWORD_LENGTH} printable characters or more;"
            " `openssl rand -hex 16` makes some"
        )


def update(path: Path, wanted: dict[str, str]) -> None:
    """Write the password file anew if a password differs; whatever happens, it is whole."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    present = dict(line.split(":", 1) for line in lines if ":" in line)
    changed = [user for user in wanted if not fits(wanted[user], present.get(user, ""))]
    for user in changed:
        present[user] = hash_of(wanted[user])
    replace(path, "".join(f"{user}:{hashed}\n" for user, hashed in present.items()))
    for user in wanted:
        sys.stdout.write(f"{user}: {'set' if user in changed else 'unchanged'}\n")


def allow(acl: Path, rules: list[str]) -> None:
    """Add the rules of PLUGS that the access list does not have; those it has stay."""
    before, section, after = acl.read_text("utf-8").partition(f"\nuser {PLUGS}\n")
    present = after.partition("\nuser ")[0].splitlines()
    new = [rule for rule in dict.fromkeys(rules) if rule not in present]
    if new:
        replace(acl, before + section + "".join(f"{rule}\n" for rule in new) + after)
    for rule in new:
        sys.stdout.write(f"{PLUGS}: {rule}\n")


def replace(path: Path, text: str) -> None:
    """Put a file in its place that the broker alone can read."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as new:
        try:
            if os.geteuid() == 0:
                shutil.chown(new.name, OWNER, OWNER)
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).replace(path)
        except LookupError:
            raise UserError(f"there is no user {OWNER!r}: expected mosquitto installed") from None
        finally:
            Path(new.name).unlink(missing_ok=True)


def fits(password: str, hashed: str) -> bool:
    """Whether `hashed` was made of this password."""
    match = re.fullmatch(r"\$7\$(\d+)\$([\w+/=]+)\$[\w+/=]+", hashed)
    if match is None:
        return False
    again = hash_of(password, base64.b64decode(match[2]), int(match[1]))
    return hmac.compare_digest(again, hashed)


def hash_of(password: str, salt: bytes = b"", iterations: int = ITERATIONS) -> str:
    """Return what mosquitto keeps of a password, as mosquitto_passwd(1) makes it."""
    salt = salt or os.urandom(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return "$7${}${}${}".format(
        iterations, *(base64.b64encode(each).decode() for each in (salt, digest))
    )


if __name__ == "__main__":
    sys.exit(main())
