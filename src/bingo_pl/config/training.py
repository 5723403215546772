"""Settings of training and of what it writes."""

from __future__ import annotations

from dataclasses import dataclass

from bingo_pl.config.checks import check, choose

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Half-precision parameters would move voxels."""
WANDB_MODES = ("auto", "online", "offline", "disabled")


@dataclass
class TrainerConfig:
    """Optimisation and hardware."""

    start: str = ""
    """Weights to start from: a checkpoint, a model file, or ``ready_2d`` and ``ready_3d``, the package's. See
    `bingo_pl.models.transfer`. Empty: drawn at random."""
    epochs: int = 500
    """Passes over the training groups."""
    learning_rate: float = 1e-3
    """Learning rate of Adam; its peak where there is a schedule."""
    warm_up: float = 0.0
    """Share of the steps over which the learning rate rises from a twenty-fifth of its peak."""
    decay: bool = False
    """Whether the learning rate falls to zero by a cosine after the warm-up."""
    motion_rate: float = 1.0
    """Factor on the learning rate of the velocity heads. Unsupervised, motion must learn slower than appearance, or it
    makes up for appearance that is not learned yet."""
    appearance_rate: float = 1.0
    """Factor on the learning rate of the modalities' normalisation, which alone distinguishes them."""
    clip_gradient_norm: float | None = None
    """Largest gradient norm. Null: no clipping."""
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu, ..."""
    devices: int = 1
    """Processes, each with a device; a step is made of ``data.batch_size`` groups of each."""
    precision: str = "32-true"
    """Precision: 32-true, 16-mixed or bf16-mixed (convolutions in half precision, all else in single)."""
    accumulate_grad_batches: int = 1
    """Batches that a step of the optimiser is made of. Batch norms see one at a time."""
    gradient_checkpointing: bool = False
    """Whether few activations of BInGo are kept for the backward pass, which computes the others again."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; there is one after every epoch anyway."""
    validate_every: int = 1
    """Epochs between validations."""

    def __post_init__(self) -> None:
        choose("trainer.precision", self.precision, PRECISIONS)
        clip = self.clip_gradient_norm
        check(
            "trainer",
            self,
            {
                "epochs": (
                    self.epochs >= max(1, self.validate_every),
                    f"at least 1, and not to end before the first validation (trainer.validate_every="
                    f"{self.validate_every})",
                ),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
                "warm_up": (0 <= self.warm_up <= 1, "a share of the steps, from 0 to 1"),
                "motion_rate": (self.motion_rate >= 0, "at least 0"),
                "appearance_rate": (self.appearance_rate >= 0, "at least 0"),
                "clip_gradient_norm": (clip is None or clip > 0, "a positive norm, or null"),
                "accelerator": (self.accelerator, "a name, e.g. auto, cpu or gpu"),
                "devices": (self.devices >= 1, "at least 1"),
                "accumulate_grad_batches": (self.accumulate_grad_batches >= 1, "at least 1"),
                "checkpoint_minutes": (self.checkpoint_minutes >= 0, "at least 0"),
                "validate_every": (self.validate_every >= 1, "at least 1"),
            },
        )


@dataclass
class LogConfig:
    """What is written while training."""

    wandb: str = "auto"
    """Mode of W&B: auto (online where the user is logged in, else offline), online, offline or disabled."""
    wandb_images: bool = False
    """Whether figures are uploaded to W&B. They show patients' images."""
    figure_groups: int = 3
    """Number of test groups that get figures."""

    def __post_init__(self) -> None:
        choose("log.wandb", self.wandb, WANDB_MODES)
        check("log", self, {"figure_groups": (self.figure_groups >= 0, "at least 0")})
