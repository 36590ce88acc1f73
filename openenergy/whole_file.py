"""A file that is replaced as a whole: the old one or the new one is there, whatever happens."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Have `content` on the disk under the name `path`; raises OSError, and leaves the old one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is on the disk only with its folder
    finally:
        os.close(folder)
