"""The last resort: where the traceback of an error goes that nobody foresaw."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from datetime import datetime
from pathlib import Path

import platformdirs

from bingo_pl import __version__


def describe(error: BaseException) -> str:
    """An error in one line: its kind and the first line of its message."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}".removesuffix(": ").rstrip(".")


def write_log(error: BaseException) -> Path:
    """Write versions, command line and traceback to a new file, in the user's log folder or else a temporary one.

    Returns:
        The file.
    """
    content = (
        f"bingo_pl {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    )
    name = f"{datetime.now():%Y-%m-%d_%H%M%S}_{os.getpid()}.log"
    for folder in (platformdirs.user_log_path("bingo_pl"), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace")
            return folder / name
        except OSError:
            continue
    sys.stderr.write(content)  # no disk takes it; what happened must not be lost
    return Path("the lines above")
