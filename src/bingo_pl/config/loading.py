"""Settings from YAML files of differences and ``key=value`` overrides, and back; OmegaConf stays here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bingo_pl.config.experiment import METHODS, Config, TableConfig
from bingo_pl.config.method import WeightConfig
from bingo_pl.errors import FileError, InputError, unknown_name
from bingo_pl.storage.regular import is_file

Tree = dict[str, Any]
HOW_TO_SET = "write key=3, key=word, key=[1,2] for a list, key=null for none"


def experiments() -> list[str]:
    """Names of the experiments that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of an experiment.

    Args:
        experiment: a name from `experiments()` or a path to a YAML file. The file's ``base`` names an experiment it
            differs from.
        overrides: ``section.key=value`` settings that win over the file.

    Raises:
        BingoError: unknown experiment or setting (with the nearest known name), or a value of the wrong type.
    """
    return _merge(Config(), *[tree for _, tree in reversed(_lineage(experiment))], _parse_overrides(overrides))


def load_table(name: str) -> TableConfig:
    """The methods to compare on the experiment ``name``: those of the table of its name, else of its nearest base that
    has one, else of ``default``.

    Raises:
        BingoError: the table's file is wrong.
    """
    files = [_folder() / "tables" / f"{family}.yaml" for family in (*[one for one, _ in _lineage(name)], "default")]
    source = next(file for file in files if file.is_file())
    tree = {"experiment": name, **read_yaml(source)}
    try:
        return cast(TableConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TableConfig), tree)))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise InputError(
            f"{source}: {error.full_key or ''}: {reason}", "A table holds methods, each with settings and start"
        ) from error


def override(config: Config, overrides: Sequence[str]) -> Config:
    """The settings with some replaced."""
    return _merge(config, _parse_overrides(overrides))


def from_tree(tree: Tree) -> Config:
    """The settings that `to_tree` wrote, e.g. into a checkpoint."""
    return _merge(Config(), tree)


def to_tree(config: Config) -> Tree:
    """Plain dictionaries and lists, which a weights-only checkpoint can hold."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The resolved settings as text."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def differences(old: Config, new: Config) -> list[str]:
    """``key: old -> new`` for each setting that differs."""
    before, after = dict(leaves(old)), dict(leaves(new))
    keys = {**before, **after}  # either may have settings of its own
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def leaves(config: Config) -> list[tuple[str, Any]]:
    """Every setting as ``section.key`` and its value."""
    return list(_leaves(to_tree(config)))


def with_data(name: str, overrides: Sequence[str]) -> str:
    """The experiment itself, or its phantom preset where the settings name no data."""
    preset = f"{name}_phantom"
    return name if load(name, overrides).data.root or preset not in experiments() else preset


def _folder() -> Any:
    return files("bingo_pl.experiments")


def _lineage(experiment: str) -> list[tuple[str, Tree]]:
    """An experiment and its bases, nearest first, each with the settings of its file.

    Raises:
        BingoError: a base is no name, or an experiment is, over its bases, its own.
    """
    names: list[str] = []
    trees: list[Tree] = []
    base: object = experiment
    while base:
        if not isinstance(base, str):
            raise InputError(f"{names[-1]}: base must be one name or YAML file, e.g. `base: mscmr`, got {base!r}")
        if base in names:
            raise InputError(
                f"{experiment}: its base leads back to itself: {' -> '.join([*names, base])}", "Change one"
            )
        names.append(base)
        trees.append(_read(base))
        base = trees[-1].pop("base", None)
    return list(zip(names, trees, strict=True))


def _read(experiment: str) -> Tree:
    if experiment.lower().endswith((".yaml", ".yml")):
        file = Path(experiment)
        if not is_file(file):
            raise FileError(
                f"no experiment file {experiment}", f"Give a YAML file or one of: {', '.join(experiments())}"
            )
        return read_yaml(file)
    source = _folder() / f"{experiment}.yaml"
    if ".." in Path(experiment).parts or not is_file(Path(str(source))):
        raise unknown_name("experiment", experiment, experiments())
    return read_yaml(source)


def read_yaml(source: Any) -> Tree:
    """The settings in a YAML file; an empty one has none.

    Args:
        source: its path, or that of a file of a package.

    Raises:
        BingoError: unreadable, not plain YAML in UTF-8, or not ``key: value``.
    """
    try:
        tree = yaml.safe_load(source.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise FileError(
            f"{source} cannot be read ({error.strerror or error})", "Check the path and permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not text in UTF-8 ({error.reason} at byte {error.start})", "Save it as UTF-8"
        ) from error
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply", "Settings have one section and a name") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date of month 13
        raise InputError(f"{source} is not plain YAML (tags are refused): {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise InputError(f"{source} must hold `key: value` settings, got {type(tree).__name__}")
    return tree


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for text in overrides:
        if not re.match(r"[a-z_.]+=", text):
            raise InputError(f"'{text}' is not a setting", "Write key=value, for example trainer.epochs=10")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (yaml.YAMLError, ValueError) as error:
        given = " ".join(overrides)
        raise InputError(f"the value of a setting cannot be read in {given}: {error}; {HOW_TO_SET}") from error


def _merge(start: Config, *layers: Tree | DictConfig) -> Config:
    try:
        trees = [OmegaConf.create(layer) for layer in layers]
        if any("${" in OmegaConf.to_yaml(tree) for tree in trees):
            raise InputError("settings must be plain values; references like ${...} are refused")
        if OmegaConf.merge({"method": start.method}, *trees).method not in METHODS:
            trees = [_with_own_terms(tree) for tree in trees]
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(start), *trees)))
    except (ConfigKeyError, ConfigAttributeError) as error:
        *parents, name = str(error.full_key).split(".")
        known: Any = to_tree(Config())
        for parent in parents:
            known = known.get(parent) if isinstance(known, dict) else None
        if not isinstance(known, dict):
            raise InputError(f"{'.'.join(parents)} is a setting, not a section: it has no '{name}'") from error
        raise unknown_name(" ".join(["setting", *parents]), name, known) from error
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise InputError(f"setting {error.full_key or ''}: {reason}; {HOW_TO_SET}") from error
    except TypeError as error:  # a section or list where the other was wanted
        raise InputError(f"a setting has the wrong kind of value: {error}; {HOW_TO_SET}") from error


def _with_own_terms(tree: Any) -> Any:
    """Settings whose weights of unknown terms are those of a method of one's own, which checks their names."""
    given = tree.get("weights") if isinstance(tree, DictConfig) else None
    if not isinstance(given, DictConfig):
        return tree
    named = {one.name for one in dataclasses.fields(WeightConfig)}
    own = {key: value for key, value in given.items() if key not in named}
    known = {key: value for key, value in given.items() if key in named}
    return OmegaConf.merge({**tree, "weights": known}, {"weights": {"own": own}} if own else {})


def _leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
