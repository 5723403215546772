"""An orderly end where Ctrl-C is pressed or a scheduler asks for one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


class Stopped(SystemExit):
    """The process was asked to stop; it ends with exit status 128 + signal, as shells have it.

    Args:
        number: of the signal.
        advice: what was saved and how to resume; empty where there is nothing to say.
        told: whether another process of the run says so already.
    """

    def __init__(self, number: int, advice: str = "", told: bool = False) -> None:
        super().__init__(128 + number)
        self.told = told
        self.number = number
        self.advice = advice

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {name}. {self.advice}".rstrip()


@contextmanager
def stopping() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM raise `Stopped` wherever the main thread is, so that temporary files are removed.

    A second SIGTERM does not disturb that; a second Ctrl-C does.
    """
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT or not asked:
            asked.append(number)
            raise Stopped(number)

    with handling(stop, STOPS):
        yield


@contextmanager
def handling(handler: Handler, numbers: tuple[int, ...]) -> Iterator[None]:
    """Handle signals within the block, and as before after it. Outside of the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
