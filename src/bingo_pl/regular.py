"""Files that can be read to their end."""

from __future__ import annotations

import errno
from pathlib import Path


def check_regular(path: Path) -> None:
    """Refuse a path that opening would wait at: a pipe waits for somebody to write into it.

    A path that does not exist passes, since opening it says so.

    Raises:
        OSError: it is a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file")
