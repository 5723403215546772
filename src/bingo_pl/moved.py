"""Modules that were renamed: importing one by its old name works, with a DeprecationWarning, for one release.

What pickles name loads too: the old name leads to the very objects of the new one.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOT = "bingo_pl"
OLD_DATA = "data_modules"
"""A package of its own, beside `bingo_pl`, up to version 0.1."""
REMOVED_IN = "0.2"
"""The version that no longer knows the old names."""


def _all_to(room: str, old_room: str, names: str = "", **renamed: str) -> dict[str, tuple[str, ...]]:
    here = {name: name for name in names.split()} | renamed
    return {f"{old_room}.{old}".lstrip("."): (f"{room}.{new}",) for old, new in here.items()}


MOVED: dict[str, tuple[str, ...]] = {
    **_all_to("images", "files", "affine fields grids in_memory landmarks record resampling scans series transforms"),
    **_all_to("images", "files", "written"),
    **_all_to("images", "data_modules", "bids geometry problems reading slices units volume"),
    **_all_to("images", "data_modules", alignment="itk_alignment", beginnings="partial_reading"),
    **_all_to("images", "data_modules", manifest_file="manifest", group_manifest="manifest"),
    **_all_to("storage", "", "atomic csv_files locking names regular sealed"),
    **_all_to("storage", "streaming", sealed="resumable"),
    **_all_to("models", "training", "model ready_model weights"),
    **_all_to("models", "training", methods="registry", provenance="checkpoints", start="transfer"),
    **_all_to("methods", "methods", objective="losses", regularity="priors"),
    **_all_to("phantoms", "data_modules.phantoms", "abdomen anatomy brain cardiac chest cohorts heart mr painting"),
    **_all_to("checking", "data_modules.checking", "check folder_listing group_pitfalls listing manifest_listing"),
    **_all_to("checking", "data_modules.checking", "pitfalls", mending="fixing"),
    **_all_to("images", "data_modules.checking", "naming"),
    **_all_to("checking", "files", check_report="report"),
    **_all_to("atlases", "registration", "centring cohort consensus newcomers people pooling", atlas="template"),
    **_all_to("registration", "registration", telling="console"),
    **_all_to("studies", "comparison", "figure rows table", run="comparison"),
    **_all_to("studies", "streaming", "scalability", merged="merged_groups"),
    "data_modules.preprocess": ("data_modules.cases", "images.intensity", "images.members"),
    "streaming.sharding": ("streaming.shard", "streaming.launched"),
}
"""Where what a module held is now, both without `ROOT`; a module that was divided has several homes."""
PACKAGES = {name.rpartition(".")[0] for name in MOVED} - {""}
"""Those that held them, some of which are no more."""


def install() -> None:
    """Let the old names be imported, where Python itself finds nothing: nobody's own module is hidden."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        root, _, inner = name.partition(".")
        if root == OLD_DATA and (not inner or _is_ours(OLD_DATA)):
            old = name
            homes = MOVED.get(old, () if inner and old in PACKAGES else (old,))
        elif root == ROOT and inner in {*MOVED, *PACKAGES}:
            old, homes = inner, MOVED.get(inner, ())
        else:
            return None
        new = [f"{ROOT}.{home}" for home in homes]
        if new:
            text = f"{name} is now {' and '.join(new)}; the old name goes with bingo_pl {REMOVED_IN}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        package = old in PACKAGES
        return ModuleSpec(name, _Same(*new) if len(new) == 1 and not package else _Gathered(new), is_package=package)


def _is_ours(package: str) -> bool:
    """Whether a package that was imported is one that was dissolved, not somebody else's."""
    return isinstance(getattr(sys.modules.get(package), "__loader__", None), _Gathered)


class _Same(Loader):
    """Gives the new module itself."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.new)
        self.spec = module.__spec__  # which the import would replace by that of the old name
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Gathered(Loader):
    """Gives a module, or a package that was dissolved, whose names are looked up where they are now."""

    def __init__(self, homes: Sequence[str]) -> None:
        self.homes = homes

    def exec_module(self, module: ModuleType) -> None:
        def find(name: str) -> Any:
            for home in map(import_module, self.homes):
                if hasattr(home, name):
                    return getattr(home, name)
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")

        vars(module)["__getattr__"] = find
