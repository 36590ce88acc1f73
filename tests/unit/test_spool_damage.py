"""What the spool makes of SIGKILL, and of torn and damaged files."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.parts import REPOSITORY
from openenergy.spool import Record, Spool

MIB = 1024 * 1024

# Appends number after number, in batches of 1 to 20, and says which are safe.
APPENDER = """
import sys
from pathlib import Path
from openenergy.spool import Record, Spool
spool = Spool(Path(sys.argv[1]), 256 * 2**20)
number = int(sys.argv[2])
while True:
    batch = range(number, number + 1 + number % 20)
    spool.append([Record(1, b"%d" % each + bytes(number % 9000)) for each in batch])
    number = batch.stop
    print(number, flush=True)
"""


def contents(path: Path) -> list[bytes]:
    """Return what is in a spool, from its oldest to its newest record."""
    spool = Spool(path, 256 * MIB)
    piece = spool.oldest(10**9)
    spool.close()
    return [record.content.rstrip(b"\0") for record in piece.records] if piece else []


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_after_sigkill_everything_is_there_whose_append_had_returned(tmp_path: Path) -> None:
    path = tmp_path / "some.spool"
    chance = random.Random(1)
    there: list[bytes] = []
    for _ in range(5):
        argv = [sys.executable, "-c", APPENDER, str(path), str(len(there))]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=REPOSITORY) as appender:
            assert appender.stdout
            said = [appender.stdout.readline() for _ in range(chance.randrange(1, 60))]
            appender.kill()
            said += appender.stdout.readlines()
            safe = max(int(line) for line in said if line.endswith(b"\n"))
        there = contents(path)
        assert len(there) >= safe
        assert there == numbers(len(there))
    assert [each.name for each in tmp_path.glob("*damaged*")] == []


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a spool with 200 records as a power cut may leave it: half of them in the journal."""
    folder = tmp_path_factory.mktemp("torn")
    spool = Spool(folder / "used.spool", MIB)
    for half in (range(100), range(100, 200)):
        for number in half:
            spool.append([Record(1, b"%d" % number + bytes(500))])
        if half.start == 0:
            spool._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - its timing
    for suffix in ("", "-wal"):
        shutil.copy(folder / f"used.spool{suffix}", folder / f"torn.spool{suffix}")
    spool.close()
    return folder / "torn.spool"


def copy_of(torn: Path, folder: Path) -> Path:
    for suffix in ("", "-wal"):
        shutil.copy(f"{torn}{suffix}", folder / f"some.spool{suffix}")
    return folder / "some.spool"


def test_a_journal_that_a_power_cut_left_is_used(torn: Path, tmp_path: Path) -> None:
    assert contents(copy_of(torn, tmp_path)) == numbers(200)


def test_a_torn_journal_loses_its_end_alone(torn: Path, tmp_path: Path) -> None:
    whole = Path(f"{torn}-wal").read_bytes()
    chance = random.Random(2)
    for _ in range(15):
        path = copy_of(torn, tmp_path)
        wal = Path(f"{path}-wal")
        length = chance.randrange(len(whole))
        garbage = chance.choice([b"", bytes(5000), chance.randbytes(5000)])
        wal.write_bytes(whole[:length] + garbage)
        there = contents(path)
        assert 100 <= len(there) <= 200
        assert there == numbers(len(there))
    assert list(tmp_path.glob("*damaged*")) == []


def damaged_files(sound: bytes) -> Iterator[bytes]:
    chance = random.Random(3)
    yield b"garbage"
    yield b"\0" * 100_000
    yield chance.randbytes(100_000)
    yield b"SQLite format 3\0" + chance.randbytes(50_000)
    yield sound[:16] + bytes(len(sound) - 16)
    for _ in range(8):
        yield sound[: chance.randrange(101, len(sound) - 4096)]
    for _ in range(8):
        start = chance.randrange(0, len(sound) - 9000)
        yield sound[:start] + chance.randbytes(9000) + sound[start + 9000 :]


def test_a_damaged_file_is_put_aside_and_the_spool_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "sound.spool", MIB)
    spool.append([Record(1, b"%d" % number + bytes(500)) for number in range(200)])
    spool.close()
    sound = (tmp_path / "sound.spool").read_bytes()
    for number, damaged in enumerate(damaged_files(sound)):
        path = tmp_path / f"{number}.spool"
        path.write_bytes(damaged)
        caplog.clear()
        spool = Spool(path, MIB)
        asides = list(tmp_path.glob(f"{number}.spool.damaged-*"))
        if len(spool) == 0:
            (aside,) = asides
            assert aside.read_bytes()[2000:3000] == damaged[2000:3000]
            (message,) = caplog.messages
            assert message.startswith(f"{path} is damaged (")
            assert str(aside) in message
        else:  # what was overwritten happened to be the inside of a record
            assert asides == []
        spool.append([Record(1, b"new")])
        spool.close()
        assert contents(path)[-1] == b"new"


@pytest.mark.parametrize("content", [b"", b"S"])
def test_an_empty_file_is_a_new_spool(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.spool"
    path.write_bytes(content)
    spool = Spool(path, MIB)
    spool.append([Record(1, b"new")])
    spool.close()
    assert contents(path) == [b"new"]
