"""Two processes on the CPU train as one does on the same batches."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from bingo_pl import BingoError, GroupBatch, config
from bingo_pl.methods.attention_unet import AttResUNet
from bingo_pl.methods.bingo import Bingo
from bingo_pl.training import experiment
from bingo_pl.training.processes import check_processes, leave
from bingo_pl.training.task import Optimisation, RegistrationTask

from .conftest import GroupMaker
from .test_experiment import settings, weights
from .test_sharding import _free_port

ROUNDING = 1e-4
"""The order of sums leaves some 1e-7 of the statistics, and through the layers a hundred times more."""
ADAM_ROUNDING = 2e-4
"""Of weights after three steps of Adam, which turns any gradient, however small, into a whole step."""


class Loss(torch.nn.Module):
    """The loss without noise: that of several processes would be another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.registrar = Bingo(2, 2, (4, 8), (1, 0), head_depth=1)
        for parameter in self.registrar.heads.parameters():  # heads start without motion
            torch.nn.init.normal_(parameter, std=0.05)
        adam = Optimisation(1e-3, 0, False, {})
        self.task = RegistrationTask(self.registrar, {"truth": 1.0}, adam, [1], seed=0)

    def forward(self, batch: GroupBatch) -> Tensor:
        terms = self.registrar.loss(batch, self.registrar(batch))
        return self.task._share(batch.groups) * torch.stack(list(terms.values())).sum()


def part(batch: GroupBatch, groups: slice) -> GroupBatch:
    names = ("images", "modalities", "masks", "labels", "spacing", "names")
    return replace(batch, truth=None, **{name: getattr(batch, name)[groups] for name in names})


def _process(rank: int, port: int, batch: GroupBatch, stack: Tensor, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet_{port}", rank=rank, world_size=2)
    mine = slice(0, 2) if rank == 0 else slice(2, 3)
    torch.save(_distributed_step(part(batch, mine)), folder / f"bingo{rank}.pt")
    torch.manual_seed(0)
    plain = AttResUNet(2, 2, (4, 8))
    plain(stack[mine])
    torch.save(dict(plain.named_buffers()), folder / f"plain{rank}.pt")
    leave()


def _distributed_step(batch: GroupBatch) -> dict[str, Tensor]:
    """The wrapper must be gone before the process group is: it takes the last of it along, which can lock up."""
    network = DistributedDataParallel(Loss(), broadcast_buffers=False)
    result = _step(network, network.module, batch)
    del network
    gc.collect()
    return result


def _step(network: torch.nn.Module, module: torch.nn.Module, batch: GroupBatch) -> dict[str, Tensor]:
    loss = network(batch)
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(module.named_buffers())}


@pytest.mark.slow
def test_two_processes_have_the_loss_gradients_and_norms_of_one(make_group: GroupMaker, tmp_path: Path) -> None:
    """Batches of two groups and of one; one modality is not on the second process at all."""
    batch = make_group((0, 1), (16, 16), groups=3)
    batch = replace(batch, modalities=torch.tensor([[0, 1], [1, 0], [0, 0]]), truth=None)
    stack = batch.images[:, :, 0]
    alone = Loss()
    expected = _step(alone, alone, batch)
    torch.manual_seed(0)
    plain = AttResUNet(2, 2, (4, 8))
    plain(stack)
    spawn(_process, (_free_port(), batch, stack, tmp_path), nprocs=2)
    got = [torch.load(tmp_path / f"bingo{rank}.pt") for rank in range(2)]
    expected["loss"] = expected["loss"].detach()
    got[0]["loss"] = (got[0]["loss"] + got[1]["loss"]) / 2  # each has its groups' share of the mean
    assert got[0].keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[0][name], value, atol=ROUNDING, rtol=ROUNDING, msg=name)
        assert name == "loss" or torch.equal(got[0][name], got[1][name]), name
    buffers = [torch.load(tmp_path / f"plain{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(buffers[0], dict(plain.named_buffers()), atol=ROUNDING, rtol=ROUNDING)
    torch.testing.assert_close(buffers[0], buffers[1], atol=0, rtol=0)


TRUTH_ALONE = (
    "model.velocity_noise=false",
    *(f"weights.{name}=0" for name in ("reconstruction", "kl_velocity", "kl_structure", "similarity", "bending")),
    "weights.truth=1",
)
"""The loss without noise."""


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """A run of one process with batches as large as those of two together."""
    return experiment.train(settings(folder, "alone", "data.batch_size=4", *TRUTH_ALONE), Console(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]])
def test_a_run_of_two_processes_ends_as_that_of_one(folder: Path, alone: Path, launcher: list[str]) -> None:
    """Whether Lightning starts the second process or torchrun both."""
    (folder / "main.py").write_text("from bingo_pl.cli import main\n\nmain()\n")
    name = f"two{len(launcher)}"
    mine = settings(folder, name, "trainer.devices=2", *TRUTH_ALONE)
    (folder / f"{name}.yaml").write_text(config.to_yaml(mine))
    command = [sys.executable, *launcher, str(folder / "main.py"), "train", str(folder / f"{name}.yaml"), "--continue"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL, env=environment)
    run = folder / "runs" / name
    assert {path.name for path in (run / "figures").iterdir()} == {path.name for path in (alone / "figures").iterdir()}
    expected, got = (weights(path / "checkpoints" / "last.ckpt") for path in (alone, run))
    for key, value in expected.items():
        if not key.endswith("velocity.bias"):  # the group's mean is subtracted: their gradients are rounding alone
            torch.testing.assert_close(got[key], value, atol=ADAM_ROUNDING, rtol=ADAM_ROUNDING, msg=key)
    for table in ("test.csv", "metrics.csv"):
        one, two = (pd.read_csv(path / table) for path in (alone, run))
        columns = [column for column in one.columns if column != "seconds"]
        pd.testing.assert_frame_equal(two[columns], one[columns], atol=1e-3, rtol=1e-3)


def test_another_number_of_processes_than_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_processes(4)  # nobody launched this process: Lightning will start the others
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    check_processes(2)
    with pytest.raises(BingoError, match=r"2 processes were started, but trainer\.devices=4"):
        check_processes(4)
