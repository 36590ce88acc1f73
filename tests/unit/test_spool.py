"""The spool: first in, first out, bounded, and still there when it is opened again."""

import itertools
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from demo.parts import REPOSITORY
from openenergy.spool import Piece, Record, Spool, SpoolError

MIB = 1024 * 1024
SMALLEST = 65536  # the smallest spool_size that a configuration may ask for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "some.spool"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    spool = Spool(path, MIB)
    yield spool
    spool.close()


def fill(spool: Spool, content: bytes, batch: int = 1) -> int:
    """Append batches of a record until there is no room; return their number."""
    for number in itertools.count():
        try:
            spool.append([Record(1, content)] * batch)
        except SpoolError as error:
            assert "full" in str(error)  # noqa: PT017 - the loop's regular end
            assert "spool_size" in str(error)  # noqa: PT017
            return number
    raise AssertionError


def drain(spool: Spool) -> list[Record]:
    records: list[Record] = []
    while piece := spool.oldest(100):
        records += piece.records
        spool.remove(piece)
    return records


def oldest(spool: Spool, items: int) -> Piece:
    piece = spool.oldest(items)
    assert piece
    return piece


def test_a_new_spool_is_empty(spool: Spool) -> None:
    assert len(spool) == 0
    assert spool.oldest(1) is None


def test_records_come_out_in_order_and_stay_until_they_are_removed(spool: Spool) -> None:
    records = [Record(1, bytes([number])) for number in range(10)]
    spool.append(records[:3])
    spool.append(records[3:])
    assert len(spool) == 10
    assert oldest(spool, 4) == oldest(spool, 4)
    assert oldest(spool, 4).records == records[:4]
    spool.remove(oldest(spool, 4))
    assert len(spool) == 6
    assert drain(spool) == records[4:]
    assert len(spool) == 0


def test_a_piece_has_as_many_records_as_fit_and_at_least_one(spool: Spool) -> None:
    spool.append([Record(3, b"a"), Record(4, b"b"), Record(5, b"c")])
    assert len(spool) == 12
    assert [oldest(spool, items).records[-1].content for items in (1, 3, 6, 7, 11, 12, 99)] == [
        *(b"a", b"a", b"a"),
        *(b"b", b"b"),
        *(b"c", b"c"),
    ]


def test_what_comes_while_a_piece_is_delivered_stays(spool: Spool) -> None:
    spool.append([Record(1, b"old")])
    piece = oldest(spool, 100)
    spool.append([Record(1, b"new")])
    spool.remove(piece)
    assert drain(spool) == [Record(1, b"new")]


def test_everything_is_still_there_when_it_is_opened_again(path: Path) -> None:
    records = [Record(number, b"\0\xff" * number) for number in range(1, 50)]
    for record in records:
        spool = Spool(path, MIB)
        spool.append([record])
        spool.close()
    spool = Spool(path, MIB)
    assert len(spool) == sum(range(1, 50))
    assert drain(spool) == records
    spool.close()
    spool = Spool(path, MIB)
    assert len(spool) == 0
    spool.append([Record(1, b"later")])
    assert drain(spool) == [Record(1, b"later")]
    spool.close()


@pytest.mark.parametrize("size", [60, 2100, 10_000], ids=lambda size: f"{size} bytes")
def test_a_full_spool_takes_no_more_and_its_file_keeps_to_the_limit(path: Path, size: int) -> None:
    limit = MIB // 4
    spool = Spool(path, limit)
    taken = 100 * fill(spool, b"x" * size, batch=100)
    taken += fill(spool, b"x" * size)
    assert len(spool) == taken
    # SQLite's pages hold one record of 2100 bytes each, else nearly everything is used.
    assert taken * size > 0.45 * limit
    assert len(drain(spool)) == taken
    spool.close()
    assert path.stat().st_size <= limit


def test_the_file_is_bounded_while_it_is_used_too(path: Path) -> None:
    spool = Spool(path, MIB)
    for _ in range(3):
        fill(spool, b"x" * 2100)
        used = sum(each.stat().st_size for each in path.parent.iterdir())
        assert path.stat().st_size <= MIB
        assert used < MIB + 6 * MIB
        spool.remove(oldest(spool, 200))
    spool.close()


def test_what_is_refused_is_refused_whole(path: Path) -> None:
    spool = Spool(path, SMALLEST)
    spool.append([Record(1, b"kept")])
    with pytest.raises(SpoolError, match=r"some\.spool: full, at 65536 bytes \(spool_size\)"):
        spool.append([Record(1, b"x" * 30_000)] * 10)
    assert len(spool) == 1
    assert drain(spool) == [Record(1, b"kept")]
    spool.close()


def test_room_is_there_again_after_draining_and_the_disk_gets_it_back(path: Path) -> None:
    spool = Spool(path, MIB)
    first = fill(spool, b"x" * 1000, batch=50)
    drain(spool)
    assert fill(spool, b"x" * 1000, batch=50) == first
    drain(spool)
    spool.close()
    assert path.stat().st_size < SMALLEST


def test_a_lower_limit_keeps_what_is_there(path: Path) -> None:
    spool = Spool(path, MIB)
    taken = 10 * fill(spool, b"x" * 1000, batch=10)
    spool.close()
    spool = Spool(path, SMALLEST)
    with pytest.raises(SpoolError, match="full"):
        spool.append([Record(1, b"x")])
    assert len(drain(spool)) == taken
    spool.append([Record(1, b"x")])
    spool.close()


def test_its_folder_is_made_and_closed_to_others(path: Path, spool: Spool) -> None:
    assert len(spool) == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"file/x\.spool: .*File exists"):
        Spool(tmp_path / "file" / "x.spool", MIB)
    (tmp_path / "folder.spool").mkdir()
    with pytest.raises(SpoolError, match=r"folder\.spool: unable to open database file"):
        Spool(tmp_path / "folder.spool", MIB)


def test_several_threads_may_use_it(path: Path) -> None:
    spool = Spool(path, 16 * MIB)
    drained: list[Record] = []

    def append(thread: int) -> None:
        for number in range(50):
            spool.append([Record(1, bytes([thread, number]))])

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        drained += drain(spool)
    drained += drain(spool)
    for number in range(4):
        mine = [record.content[1] for record in drained if record.content[0] == number]
        assert mine == list(range(50))
    assert len(drained) == 200
    assert len(spool) == 0
    spool.close()


def test_a_second_process_is_refused(path: Path, spool: Spool) -> None:
    spool.append([Record(1, b"mine")])
    other = """
import sys
from pathlib import Path
from openenergy.spool import Spool, SpoolError
try:
    Spool(Path(sys.argv[1]), 65536)
except SpoolError as error:
    print(error)
"""
    argv = [sys.executable, "-c", other, str(path)]
    said = subprocess.run(argv, stdout=subprocess.PIPE, cwd=REPOSITORY, check=True, text=True)
    assert said.stdout == f"{path}: database is locked\n"
    assert drain(spool) == [Record(1, b"mine")]


class SpoolAndQueue(RuleBasedStateMachine):
    """A spool does what a queue in memory does, restarts included."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name, "some.spool")
        self.queue: deque[Record] = deque()
        self.spool = Spool(self.path, 16 * MIB)

    @rule(
        records=st.lists(
            st.builds(Record, st.integers(1, 5000), st.binary(max_size=5000)), max_size=20
        )
    )
    def append(self, records: list[Record]) -> None:
        self.spool.append(records)
        self.queue += records

    @precondition(lambda self: self.queue)
    @rule(items=st.integers(1, 20_000))
    def deliver_a_piece(self, items: int) -> None:
        piece = oldest(self.spool, items)
        assert len(piece.records) == 1 or sum(record.items for record in piece.records) <= items
        self.spool.remove(piece)
        assert piece.records == [self.queue.popleft() for _ in piece.records]

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.path, 16 * MIB)

    @invariant()
    def same_count(self) -> None:
        assert len(self.spool) == sum(record.items for record in self.queue)
        assert (self.spool.oldest(1) is None) == (not self.queue)

    def teardown(self) -> None:
        assert drain(self.spool) == list(self.queue)
        self.spool.close()
        self.folder.cleanup()


TestSpoolAndQueue = SpoolAndQueue.TestCase
TestSpoolAndQueue.settings = settings(max_examples=15, stateful_step_count=15)
