"""A run's folder: what it was made from, and what may be added to it."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import subprocess
import textwrap
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from derta.errors import RunError
from derta.files import write_text
from derta.records import short_hash

_TORN = "manifest.json.partial"  # all that a kill leaves behind while a run begins
PACKAGES = ("derta", "torch", "transformers", "accelerate", "peft", "tokenizers", "trl", "vllm")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The source checkout's commit, or None for an installed package."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_run(folder: Path, *, recipe: Mapping[str, Any], inputs: Iterable[Path]) -> Path:
    """Begin a run, or go on with one that was begun with the same recipe and the same inputs.

    Returns:
        The folder, with a `manifest.json` in it.

    Raises:
        RunError: the folder holds another recipe's run, holds files but no manifest, or an input changed.
    """
    manifest_path = folder / "manifest.json"
    made_of = _made_of(recipe, inputs)
    if manifest_path.exists():
        _check_same(folder, _read_manifest(manifest_path), **made_of)
        return folder
    if folder.exists() and (not folder.is_dir() or any(path.name != _TORN for path in folder.iterdir())):
        raise RunError(
            f"{folder}: expected a new folder or a run's, got files without a manifest; choose another --out"
        )
    manifest = {"recipe": made_of["recipe"], "versions": versions(), "commit": commit(), "inputs": made_of["inputs"]}
    write_text(manifest_path, json.dumps(manifest, indent=2) + "\n")
    return folder


def _origin_path(model: Path) -> Path:
    return model.with_name(model.name + ".origin.json")


def check_new_model(model: Path) -> None:
    """Fail before any work if a model is there that nobody is at work on.

    Raises:
        RunError: it is there.
    """
    if model.exists() and not _origin_path(model).exists():
        raise RunError(f"{model}: expected a new folder, found one; choose another --out, or delete it")


@contextmanager
def record_origin(
    model: Path, *, recipe: Mapping[str, Any], inputs: Iterable[Path], is_main_process: bool = True
) -> Generator[None]:
    """Keep beside a model, until the block is through, what it is made of: nothing else goes on from its checkpoints.

    Of several processes one is to write that, as if `is_main_process`.

    Raises:
        RunError: the model or checkpoints of it are there, and made of something else or of nobody knows what.
    """
    origin_path, made_of = _origin_path(model), _made_of(recipe, inputs)
    for place in _begun(model):
        if not origin_path.exists():
            raise RunError(f"{place}: expected a new folder, found one; choose another --out, or delete it")
        _check_same(place, _read_manifest(origin_path), **made_of)
    if is_main_process:
        write_text(origin_path, json.dumps(made_of, indent=2) + "\n")
    finished = False
    try:
        yield
        finished = True
    finally:
        if is_main_process and (finished or not _begun(model)):
            origin_path.unlink()


def _begun(model: Path) -> list[Path]:
    """The model's folder and that of its checkpoints, as far as they hold something."""
    places = (model, model.with_name(model.name + ".checkpoints"))
    return [place for place in places if place.is_dir() and any(place.iterdir())]


def _made_of(recipe: Mapping[str, Any], inputs: Iterable[Path]) -> dict[str, Any]:
    """A recipe as JSON gives it back, and the hashes of the files that are there."""
    hashes = {str(path): hash_file(path) for path in sorted(set(inputs)) if path.is_file()}
    return {"recipe": json.loads(json.dumps(recipe)), "inputs": hashes}


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a run's manifest in JSON ({error}); choose another --out") from error
    if not isinstance(manifest, dict) or not {"recipe", "inputs"} <= set(manifest):
        raise RunError(f"{path}: expected a run's manifest, got another file of that name; choose another --out")
    return manifest


def _check_same(folder: Path, old: dict[str, Any], *, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    if old["recipe"] != recipe:
        keys = sorted(_differences(old["recipe"], recipe))
        raise RunError(
            f"{folder}: holds the run of another recipe (differs in {', '.join(keys[:5])}); "
            "choose another --out, or delete the folder"
        )
    changed = [path for path, digest in inputs.items() if old["inputs"].get(path, digest) != digest]
    if changed:
        raise RunError(f"{folder}: {changed[0]} has changed since this run began; choose another --out")


def _differences(old: Any, new: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {*old, *new}:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix


def finish_folder(partial: Path, final: Path) -> None:
    """Give a folder its name once everything in it is written."""
    try:
        partial.replace(final)
    except OSError as error:
        raise RunError(f"{final}: cannot finish writing it ({error.strerror}); choose another folder") from error


def identify(function: Callable[..., object], *, version: str | None = None) -> str:
    """Name a user's function for a manifest: by its name and its source or, if given, its `version`.

    A resumed run compares these names, so a function that was edited is another function. Values that a function
    captures do not count: give a `version` that tells them apart.

    >>> identify(hash_file) == identify(hash_file), identify(hash_file, version="2")
    (True, 'hash_file@2')

    Raises:
        RunError: there is neither a source (a builtin, or a function typed in a console) nor a `version`.
    """
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    if version is not None:
        return f"{name}@{version}"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise RunError(
            f"{name}: expected a function whose source can be read, so that a resumed run can tell whether it changed, "
            f"got none; give it a `version=`"
        ) from error
    return f"{name}@{short_hash(textwrap.dedent(source))}"
