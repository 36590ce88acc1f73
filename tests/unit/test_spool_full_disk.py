"""A full disk: nothing is lost, and it is no dead end, even if the spool itself has filled it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.parts import REPOSITORY

BEGINNING = """
import json, os, resource, signal, sys
from pathlib import Path
from openenergy.spool import Record, Spool, SpoolError

path = Path(sys.argv[1])
ballast = path.with_name("ballast")

def keep(spool, number):
    spool.append([Record(1, b"%d" % number + bytes(5000))])

def deliver_all(spool):
    delivered = []
    while piece := spool.oldest(7):
        delivered += [int(record.content.rstrip(bytes(1))) for record in piece.records]
        spool.remove(piece)
    assert len(spool) == 0
    return delivered
"""

# Fills the disk, and is killed; or gets room, or does not, delivers everything and keeps one more.
FILLER = f"""{BEGINNING}
then = sys.argv[2]
if not ballast.exists():  # no disk of our own: limit the size of our files instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
spool = Spool(path, 256 * 2**20)
kept, errors = 0, []
while len(errors) < 3:
    try:
        keep(spool, kept)
        kept += 1
    except SpoolError as error:
        errors.append(str(error))
print(json.dumps([kept, errors]), flush=True)
if then == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if then == "gets room":
    ballast.unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    keep(spool, kept)
    kept += 1
assert len(spool) == kept
print(json.dumps(deliver_all(spool)), flush=True)
keep(spool, kept)
"""

# Fills what is left of the disk with something else, opens the spool again, and delivers all.
# With the disk still full, a new record may be refused; with room again, none is.
READER = f"""{BEGINNING}
more = path.with_name("more")
if ballast.parent.is_mount():
    try:
        with more.open("wb", 0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass
spool = Spool(path, 256 * 2**20)
print(json.dumps(deliver_all(spool)), flush=True)
try:
    keep(spool, 12344)
except SpoolError:
    assert spool.oldest(1) is None
deliver_all(spool)
more.unlink(missing_ok=True)
keep(spool, 12345)
spool.close()
print(json.dumps(deliver_all(Spool(path, 256 * 2**20))), flush=True)
"""

# Makes a disk of 1 MiB that is gone with this process; runs both with it; says how they ended.
ON_A_SMALL_DISK = """
import subprocess, sys
folder, filler, reader, then = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
with open(folder + "/ballast", "wb") as ballast:
    ballast.write(bytes(400_000))
for program in (filler, reader):
    argv = [sys.executable, "-c", program, folder + "/some.spool", then]
    print(subprocess.run(argv).returncode, flush=True)
"""


def run(*argv: str) -> list[Any]:
    """Return the lines of JSON that a program has printed."""
    ended = subprocess.run(
        argv, stdout=subprocess.PIPE, cwd=REPOSITORY, check=False, timeout=60, text=True
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


def run_python(program: str, *arguments: str) -> list[Any]:
    return run(sys.executable, "-c", program, *arguments)


def run_on_a_small_disk(folder: Path, then: str) -> list[Any]:
    """Run the filler and the reader on a disk that nobody else sees (unshare(1))."""
    alone = ["unshare", "--mount", sys.executable, "-c"]
    can_mount = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run([*alone, can_mount, *mount], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    return run(*alone, ON_A_SMALL_DISK, str(folder), FILLER, READER, then)


def check_fill(filled: list[Any]) -> int:
    """Check what happened when the disk was full; return how many records were kept."""
    kept, errors = filled
    assert kept > 10
    assert len(errors) == 3
    for error in errors:
        assert re.fullmatch(r".*/some\.spool: (disk I/O error|database or disk is full)", error)
    return int(kept)


@pytest.mark.parametrize("then", ["gets room", "gets none"])
def test_what_was_kept_is_delivered_once_and_then_there_is_room(tmp_path: Path, then: str) -> None:
    filled, delivered, status, left, after, reader_status = run_on_a_small_disk(tmp_path, then)
    kept = check_fill(filled) + (then == "gets room")
    assert delivered == list(range(kept))
    assert left == [kept]
    assert after == [12345]
    assert status == reader_status == 0


@pytest.mark.parametrize("then", ["gets room", "gets none"])
def test_so_it_is_with_a_limit_on_the_size_of_files(tmp_path: Path, then: str) -> None:
    path = str(tmp_path / "some.spool")
    filled, delivered = run_python(FILLER, path, then)
    kept = check_fill(filled) + (then == "gets room")
    assert delivered == list(range(kept))
    left, after = run_python(READER, path)
    assert left == [kept]
    assert after == [12345]


def test_after_a_crash_on_a_full_disk_it_can_be_opened_and_drained(tmp_path: Path) -> None:
    filled, status, delivered, after, reader_status = run_on_a_small_disk(tmp_path, "killed")
    assert status == -signal.SIGKILL
    assert delivered == list(range(check_fill(filled)))
    assert after == [12345]
    assert reader_status == 0


def test_after_a_crash_at_a_limit_too(tmp_path: Path) -> None:
    path = str(tmp_path / "some.spool")
    (filled,) = run_python(FILLER, path, "killed")
    delivered, after = run_python(READER, path)
    assert delivered == list(range(check_fill(filled)))
    assert after == [12345]
