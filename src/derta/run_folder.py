"""Run folders: their manifest (recipe, versions, commit, input hashes), and the checks before a run resumes."""

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

_PARTIAL_MANIFEST = "manifest.json.partial"  # the only file in the folder if a run is killed while it starts
PACKAGES = ("derta", "torch", "transformers", "accelerate", "peft", "tokenizers", "trl", "vllm")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that can change a result."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """Return the commit of the source checkout; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def hash_file(path: Path) -> str:
    """Compute the SHA-256 hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_run(folder: Path, *, recipe: Mapping[str, Any], inputs: Iterable[Path]) -> Path:
    """Start a run, or resume one with the same recipe and the same input files.

    Returns:
        The folder, with a `manifest.json`.

    Raises:
        RunError: the folder has the run of another recipe, has files but no manifest, or an input file changed.
    """
    manifest_path = folder / "manifest.json"
    origin = _origin_of(recipe, inputs)
    if manifest_path.exists():
        _check_same(folder, _read_manifest(manifest_path), **origin)
        return folder
    if folder.exists() and (not folder.is_dir() or any(path.name != _PARTIAL_MANIFEST for path in folder.iterdir())):
        raise RunError(
            f"{folder}: expected a new folder or a run folder, got files without a manifest; choose another --out"
        )
    manifest = {"recipe": origin["recipe"], "versions": versions(), "commit": commit(), "inputs": origin["inputs"]}
    write_text(manifest_path, json.dumps(manifest, indent=2) + "\n")
    return folder


def _origin_path(model: Path) -> Path:
    return model.with_name(model.name + ".origin.json")


def check_new_model(model: Path) -> None:
    """Check that an output path has no finished model, before any work starts.

    Raises:
        RunError: the path exists, and its training is not in progress.
    """
    if model.exists() and not _origin_path(model).exists():
        raise RunError(f"{model}: expected a new folder, found one; choose another --out, or delete it")


@contextmanager
def record_origin(
    model: Path, *, recipe: Mapping[str, Any], inputs: Iterable[Path], is_main_process: bool = True
) -> Generator[None]:
    """Write the recipe and input hashes of a model to `<model>.origin.json` while the block runs.

    The file lets only the same recipe and inputs resume from the model's checkpoints. Only the main process writes it.

    Raises:
        RunError: the model or its checkpoints exist, and their recipe or inputs differ or are unknown.
    """
    origin_path, origin = _origin_path(model), _origin_of(recipe, inputs)
    for folder in _existing_outputs(model):
        if not origin_path.exists():
            raise RunError(f"{folder}: expected a new folder, found one; choose another --out, or delete it")
        _check_same(folder, _read_manifest(origin_path), **origin)
    if is_main_process:
        write_text(origin_path, json.dumps(origin, indent=2) + "\n")
    finished = False
    try:
        yield
        finished = True
    finally:
        if is_main_process and (finished or not _existing_outputs(model)):
            origin_path.unlink()


def _existing_outputs(model: Path) -> list[Path]:
    """Return those of the model's folder and its checkpoint folder that exist and are not empty."""
    folders = (model, model.with_name(model.name + ".checkpoints"))
    return [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]


def _origin_of(recipe: Mapping[str, Any], inputs: Iterable[Path]) -> dict[str, Any]:
    """Return a recipe as parsed from JSON, and the hashes of the input files that exist."""
    hashes = {str(path): hash_file(path) for path in sorted(set(inputs)) if path.is_file()}
    return {"recipe": json.loads(json.dumps(recipe)), "inputs": hashes}


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a run's manifest in JSON ({error}); choose another --out") from error
    if not isinstance(manifest, dict) or not {"recipe", "inputs"} <= set(manifest):
        raise RunError(f"{path}: expected a run's manifest, got JSON without its keys; choose another --out")
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
        raise RunError(f"{folder}: {changed[0]} has changed since this run started; choose another --out")


def _differences(old: Any, new: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {*old, *new}:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix


def finish_folder(partial: Path, final: Path) -> None:
    """Rename a folder to its final name after all of its files are written.

    Raises:
        RunError: the folder cannot be renamed.
    """
    try:
        partial.replace(final)
    except OSError as error:
        raise RunError(f"{final}: cannot finish writing it ({error.strerror}); choose another folder") from error


def identify(function: Callable[..., object], *, version: str | None = None) -> str:
    """Return the identity of a user's function for a manifest: its name with a hash of its source, or its `version`.

    A resumed run compares these identities, so an edited function is a different one. Values that a function captures
    are not part of its source: pass a `version` to distinguish them.

    >>> identify(hash_file) == identify(hash_file), identify(hash_file, version="2")
    (True, 'hash_file@2')

    Raises:
        RunError: the source cannot be read (a builtin, or a function from a console), and there is no `version`.
    """
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    if version is not None:
        return f"{name}@{version}"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise RunError(
            f"{name}: expected a function whose source can be read, so that a resumed run can detect changes, "
            f"got none; give it a `version=`"
        ) from error
    return f"{name}@{short_hash(textwrap.dedent(source))}"
