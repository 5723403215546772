"""A training that is asked to stop does so behind a step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from bingo_pl.signals import STOPS, Stopped

NOTE = b"stopping behind this step; Ctrl-C again stops at once, without a checkpoint\n"
Run = Callable[[list[str]], object]


class StopRequest:
    """Notes a signal until the training is at a place to stop at.

    SIGINT (Ctrl-C) and SIGTERM are noted; under SLURM also the signal that comes before the time limit
    (``sbatch --signal=SIGUSR1@120``), upon which the job is put in the queue again, as Lightning does.

    Args:
        repeatable: whether the command that started this training resumes it when it is given again. Only then does a
            job return to the queue.
    """

    def __init__(self, repeatable: bool) -> None:
        self.repeatable = repeatable
        self.number = 0
        """Of the signal; 0: none yet."""
        self.process = os.getpid()
        slurm = SLURMEnvironment() if SLURMEnvironment.detect() else None
        self.requeue_signal = int(slurm.requeue_signal or 0) if slurm is not None and slurm.auto_requeue else 0

    def listen(self) -> None:
        """Handle the signals from now on. Lightning, which has just set handlers of its own, sets back earlier ones."""
        if threading.current_thread() is threading.main_thread():
            for number in (*STOPS, self.requeue_signal):
                if number:
                    signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second Ctrl-C stops at once."""
        if os.getpid() != self.process:  # a loader's: it outlives Ctrl-C, until this one ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.number and number == signal.SIGINT:
            raise Stopped(number, "The newest checkpoint is that of before")
        if not self.number:
            self.number = number
            if number == signal.SIGINT:
                os.write(2, NOTE)  # all else may be at work here

    def stop(self, number: int, saved: Path | None, told: bool) -> Stopped:
        """The exception that ends the training.

        Args:
            number: of the signal that the first process got.
            saved: the checkpoint; None where there was nothing to save yet.
            told: whether the first process says so.
        """
        if saved is None:
            return Stopped(number, "Nothing was trained yet", told)
        again = "the same command, or " if self.repeatable else ""
        return Stopped(number, f"Saved: {saved}. Resume with {again}bingo resume {saved}", told)

    def requeue(self, number: int, run: Run = subprocess.run) -> None:
        """Put a SLURM job in the queue again where the signal asked for that; called on the first process alone."""
        if number and number == self.requeue_signal and self.repeatable:
            array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
            run(["scontrol", "requeue", f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]])
