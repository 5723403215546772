"""What a sweep may vary: the parameters of a W&B sweep file, listed for a grid and drawn at random.

The names are W&B's. Not all: ``log_uniform`` and its kin, which W&B has retired, take exponents for bounds and mislead.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats

from bingo_pl.errors import InputError, unknown_name

Value = str | int | float | bool | list[Any]
Spec = Mapping[str, Any]

DEFAULTS = {"q": 1, "mu": 0.0, "sigma": 1.0}
FIELDS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
}
"""What each distribution takes."""
CONTINUOUS: dict[str, Callable[[Spec], Any]] = {
    "uniform": lambda spec: stats.uniform(spec["min"], spec["max"] - spec["min"]),
    "log_uniform_values": lambda spec: stats.loguniform(spec["min"], spec["max"]),
    "normal": lambda spec: stats.norm(spec["mu"], spec["sigma"]),
    "log_normal": lambda spec: stats.lognorm(spec["sigma"], scale=math.exp(spec["mu"])),
}
DIGITS = 6
"""Significant ones of a drawn number, so that a person can read and repeat it."""


@dataclass(frozen=True)
class Parameter:
    """A setting that a sweep varies."""

    name: str
    """``section.key``."""
    distribution: str
    spec: Spec
    """What the distribution takes, complete and checked."""

    @property
    def values(self) -> list[Value]:
        """All values, for a grid.

        Raises:
            BingoError: there are infinitely many, or probabilities, which a grid would pass over.
        """
        if self.distribution == "constant":
            return [self.spec["value"]]
        if self.distribution == "categorical":
            return list(self.spec["values"])
        if self.distribution == "int_uniform":
            return list(range(self.spec["min"], self.spec["max"] + 1))
        raise InputError(
            f"{self.name}: a grid cannot try a {self.distribution} parameter", "List its values, or search at random"
        )

    def quantile(self, share: float) -> Value:
        """The value below which the distribution has ``share`` (0 <= share < 1) of its weight."""
        if self.distribution == "categorical_w_probabilities":
            steps = list(itertools.accumulate(self.spec["probabilities"]))
            return self.spec["values"][min(bisect_right(steps, share), len(steps) - 1)]
        if self.distribution in ("constant", "categorical", "int_uniform"):
            return self.values[int(share * len(self.values))]
        drawn = float(CONTINUOUS[self.distribution.removeprefix("q_")](self.spec).ppf(share))
        if self.distribution.startswith("q_"):
            q = self.spec["q"]
            return round(drawn / q) * q if isinstance(q, int) else _readable(round(drawn / q) * q)
        return _readable(drawn)


def parse(name: str, spec: Any) -> Parameter:
    """A parameter of a sweep file.

    Args:
        name: ``section.key``, a setting.
        spec: W&B's description, e.g. ``{"distribution": "uniform", "min": 0.0, "max": 1.0}`` or ``{"values": [1, 2]}``.

    Raises:
        BingoError: an unknown distribution, or values that it cannot take or that no command line can hold.
    """
    if not isinstance(spec, Mapping):
        raise InputError(
            f"{name}: got {spec!r}, wanted e.g. `values: [1, 2]` or `distribution: uniform` with min and max"
        )
    if "parameters" in spec:
        raise InputError(
            f"{name}: nested parameters cannot be given as key=value", f"Write `{name}.<setting>:` instead"
        )
    distribution = spec.get("distribution") or _inferred(name, spec)
    if distribution not in FIELDS:
        raise unknown_name(f"distribution of {name}", distribution, FIELDS)
    fields = FIELDS[distribution]
    given = {**{key: DEFAULTS[key] for key in fields if key in DEFAULTS}, **spec}
    given.pop("distribution", None)
    if set(given) != set(fields):
        raise InputError(f"{name}: {distribution} takes {', '.join(fields)}, got {', '.join(given) or 'nothing'}")
    _check(name, distribution, given)
    return Parameter(name, distribution, given)


def _inferred(name: str, spec: Spec) -> str:
    """The distribution of a parameter that does not name it, as W&B has it."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    bounds = [type(spec.get(key)) for key in ("min", "max")]
    if bounds == [int, int]:
        return "int_uniform"
    if bounds == [float, float]:
        return "uniform"
    raise InputError(f"{name}: name its distribution, or give values, or min and max, both whole or both not (1.0)")


def _check(name: str, distribution: str, spec: Spec) -> None:
    for key in {"min", "max", "q", "mu", "sigma"} & set(spec):
        wanted = int if distribution == "int_uniform" else int | float
        if not isinstance(spec[key], wanted) or isinstance(spec[key], bool):
            hint = " (in YAML 1e-5 is text, 1.0e-5 a number)" if isinstance(spec[key], str) else ""
            raise InputError(f"{name}: {key} must be a {'whole ' * (wanted is int)}number, got {spec[key]!r}{hint}")
    if "min" in spec and spec["min"] >= spec["max"]:
        raise InputError(f"{name}: min {spec['min']} is not below max {spec['max']}")
    if "log_uniform" in distribution and spec["min"] <= 0:
        raise InputError(f"{name}: min must be above 0 for {distribution}, got {spec['min']}")
    if any(spec.get(key, 1) <= 0 for key in ("q", "sigma")):
        raise InputError(f"{name}: q and sigma must be above 0")
    values = [spec["value"]] if "value" in spec else spec.get("values", [0])
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str | int | float | list) for value in values)
    ):
        raise InputError(
            f"{name}: values must be numbers, words, true, false or lists, at least one, got {values!r}",
            'For none write "null", in quotes',
        )
    weights = spec.get("probabilities", [1 / len(values)] * len(values))
    if len(weights) != len(values) or min(weights) < 0 or not math.isclose(sum(weights), 1):
        raise InputError(f"{name}: wanted a probability for each value, together 1, got {weights}")


def _readable(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
