"""Run folders: their manifest (recipe, versions, commit, input hashes), and the checks before a run resumes."""

from __future__ import annotations

import dis
import inspect
import json
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from derta.errors import RunError
from derta.files import sync_folder, write_text
from derta.locks import lock
from derta.provenance import file_hashes
from derta.records import short_hash

_STARTED = ("manifest.json", "manifest.json.partial")  # all that a kill leaves behind while a run starts
DISTILLED = "distilled"
"""Start of the names of files with the untuned model's own answers, which are written before the manifest."""
PACKAGES = ("derta", "torch", "transformers", "accelerate", "peft", "tokenizers", "trl", "vllm")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that can change a result."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def commit() -> str | None:
    """Return the commit of the source checkout; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def open_run(
    folder: Path,
    *,
    recipe: Mapping[str, Any],
    training: Mapping[str, Any],
    inputs: Iterable[Path],
    fixed: Iterable[Path],
    name_of: Callable[[Path], str] = str,
) -> Generator[Path]:
    """Start a run, or resume one with the same training, while the block runs; no second process may write the folder.

    A resumed run may have other evaluations: then its manifest gets the new recipe.

    Args:
        folder: The run's folder; it gets a `manifest.json`.
        recipe: The recipe, for the manifest.
        training: The part of it that the trained models depend on, and the identity of their data.
        inputs: All files that the run depends on; the manifest has the hash of each that exists.
        fixed: Those that the trained models depend on: they must not change.
        name_of: Function that returns the name of a file in the manifest.

    Raises:
        RunError: the folder has a run of another training, or files but no manifest, an input file changed, or another
            process writes the folder.
    """
    path = folder / "manifest.json"
    new: dict[str, Any] = {
        "recipe": json.loads(json.dumps(recipe)),
        "training": json.loads(json.dumps(training)),
        "versions": versions(),
        "commit": commit(),
        "inputs": file_hashes(inputs, name_of),
    }
    check_folder(folder)
    with lock(path):
        old = _read_manifest(path) if path.stat().st_size else None
        if old is not None:
            _check_same(folder, old, recipe=new["training"], inputs=file_hashes(fixed, name_of), key="training")
        if old is None or (old["recipe"], old["inputs"]) != (new["recipe"], new["inputs"]):
            write_text(path, json.dumps(new, indent=2) + "\n")
    with lock(path):  # the file may be new
        yield folder


def check_folder(folder: Path, *, training: Mapping[str, Any] | None = None) -> None:
    """Check that a folder is new or has a run, if given with these values of its training, before anything is written.

    Raises:
        RunError: it has files but no manifest, or a run of other values.
    """
    path = folder / "manifest.json"
    is_run = path.is_file() and path.stat().st_size > 0
    if is_run and training:
        old = _read_manifest(path)
        old["training"] = {key: value for key, value in (old.get("training") or {}).items() if key in training}
        _check_same(folder, old, recipe=training, inputs={}, key="training")
    if _has_files(folder) and not is_run:
        raise RunError(
            f"{folder}: expected a new folder or a run folder, got files without a manifest; choose another --out"
        )


def _has_files(folder: Path) -> bool:
    """Return whether the path is a file, or a folder with more in it than a start that was killed leaves."""
    return folder.exists() and not (
        folder.is_dir()
        and all(one.name in _STARTED or one.name.startswith(f"{DISTILLED}.") for one in folder.iterdir())
    )


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
    model: Path,
    *,
    recipe: Mapping[str, Any],
    inputs: Iterable[Path],
    name_of: Callable[[Path], str] = str,
    is_main_process: bool = True,
) -> Generator[None]:
    """Write the recipe and input hashes of a model to `<model>.origin.json` while the block runs.

    The file lets only the same recipe and inputs resume from the model's checkpoints. Only the main process writes it.
    `name_of` returns the name of an input file in it.

    Raises:
        RunError: the model or its checkpoints exist, and their recipe or inputs differ or are unknown.
    """
    origin_path = _origin_path(model)
    origin: dict[str, Any] = {"recipe": json.loads(json.dumps(recipe)), "inputs": file_hashes(inputs, name_of)}
    if not is_main_process:
        _check_origin(model, origin)
        yield
        return
    with lock(origin_path):
        _check_origin(model, origin)
        write_text(origin_path, json.dumps(origin, indent=2) + "\n")
    with lock(origin_path):  # the file is new
        finished = False
        try:
            yield
            finished = True
        finally:
            if finished or not _existing_outputs(model):
                origin_path.unlink()


def _check_origin(model: Path, origin: Mapping[str, Any]) -> None:
    path = _origin_path(model)
    for folder in _existing_outputs(model):
        if not path.exists() or not path.stat().st_size:
            raise RunError(f"{folder}: expected a new folder, found one; choose another --out, or delete it")
        _check_same(folder, _read_manifest(path), recipe=origin["recipe"], inputs=origin["inputs"])


def _existing_outputs(model: Path) -> list[Path]:
    """Return those of the model's folder and its checkpoint folder that exist and are not empty."""
    folders = (model, model.with_name(model.name + ".checkpoints"))
    return [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a run's manifest in JSON ({error}); choose another --out") from error
    if not isinstance(manifest, dict) or not {"recipe", "inputs"} <= set(manifest):
        raise RunError(f"{path}: expected a run's manifest, got JSON without its keys; choose another --out")
    return manifest


def _check_same(
    folder: Path, old: dict[str, Any], *, recipe: Mapping[str, Any], inputs: Mapping[str, str], key: str = "recipe"
) -> None:
    changed = [path for path, digest in inputs.items() if old["inputs"].get(path, digest) != digest]
    if changed:
        raise RunError(f"{folder}: {changed[0]} has changed since this run started; choose another --out")
    # a key that an earlier version did not have is no difference while it has no value
    if keys := sorted(_differences(old.get(key), recipe)):
        raise RunError(
            f"{folder}: holds the run of another recipe (differs in {', '.join(keys[:5])}); "
            "choose another --out, or delete the folder"
        )


def _differences(old: Any, new: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {*old, *new}:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix


def finish_folder(partial: Path, final: Path) -> None:
    """Rename a folder to its final name after all of its files are on the disk.

    Raises:
        RunError: the folder cannot be renamed.
    """
    try:
        sync_folder(partial)
        partial.replace(final)
        sync_folder(final.parent, recursive=False)
    except OSError as error:
        raise RunError(f"{final}: cannot finish writing it ({error.strerror}); choose another folder") from error


def clean_up_training(model: Path) -> None:
    """Delete what a training leaves that was killed after its model was complete: checkpoints and a partial folder.

    TensorBoard's files are copied to `model` + `.runs` first.
    """
    checkpoints = model.with_name(model.name + ".checkpoints")
    logs = checkpoints / "runs"  # Hugging Face's name
    if logs.is_dir():
        shutil.copytree(logs, model.with_name(f"{model.name}.{logs.name}"), dirs_exist_ok=True)
    for folder in (checkpoints, model.with_name(model.name + ".partial")):
        shutil.rmtree(folder, ignore_errors=True)


def identify(function: Callable[..., object], *, version: str | None = None) -> str:
    """Return the identity of a user's function for a manifest: its name with a hash of its source, or its `version`.

    A resumed run compares these identities, so an edited function is a different one. Plain values that it reads (see
    `plain_settings`) are part of its identity; objects that it reads are not: pass a `version` to distinguish them.

    >>> identify(commit) == identify(commit), identify(commit, version="2")
    (True, 'commit@2')
    >>> first, second = [lambda text, limit=limit: len(text) > limit for limit in (8, 9)]
    >>> identify(first) == identify(second)
    False

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
    values = [json.dumps(settings, sort_keys=True)] if (settings := plain_settings(function)) else []
    return f"{name}@{short_hash(textwrap.dedent(source), *values)}"


def plain_settings(function: object) -> dict[str, object]:
    """Return the numbers, texts and tuples of them that a function or an object was created with.

    For a function: its defaults, and the captured and global variables that it reads and does not set. For an object:
    the arguments of its class that it keeps under their name.

    >>> threshold = 0.5
    >>> def long(text: str, *, limit: int = 8) -> bool:
    ...     return len(text) > limit * threshold
    >>> plain_settings(long)["limit"]
    8
    """
    if isinstance(function, type):
        return {}
    if not inspect.isfunction(function := inspect.unwrap(function) if callable(function) else function):
        values = {name: getattr(function, name, None) for name in inspect.signature(type(function)).parameters}
        return {name: value for name, value in values.items() if _is_plain(value)}
    code = function.__code__
    sets = {one.argval for one in dis.get_instructions(function) if one.opname in {"STORE_DEREF", "STORE_GLOBAL"}}
    values: dict[str, object] = {name: function.__globals__.get(name) for name in code.co_names}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # an empty cell
            values[name] = cell.cell_contents
    values |= {one.name: one.default for one in inspect.signature(function).parameters.values()}
    return {name: value for name, value in values.items() if name not in sets and _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, cast("tuple[object, ...]", value)))
    return isinstance(value, str | int | float | bool)
