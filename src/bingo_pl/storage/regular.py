"""Files that can be read to their end."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is a file of a name that a person gave: `Path.is_file` raises where no file can have that name."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """Whether there is a folder of a name that a person gave, see `is_file`."""
    return os.path.isdir(path)


def exists(path: Path) -> bool:
    """Whether there is anything of a name that a person gave, see `is_file`."""
    return os.path.exists(path)


def check_regular(path: Path) -> None:
    """Refuse a path that opening would wait at: a pipe waits for somebody to write into it.

    A path that does not exist passes, since opening it says so.

    Raises:
        OSError: it is a pipe, a socket or a device.
    """
    if exists(path) and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file")
