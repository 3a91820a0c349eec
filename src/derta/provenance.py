"""Provenance of results: the hash of the input that each was made from, and the producer that made it.

Replies and verdicts carry both, so that a resumed stage takes up a result only if it would make the same one today.
A producer is a flat mapping, for example `{"model": "5f0c…", "engine": "hf", "dtype": "float32", "max_new_tokens":
"64"}`; its keys name what differs in an error message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from derta.errors import ModelError
from derta.records import Prompt, Reply, short_hash

Producer = Mapping[str, str]
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")
SUPERSEDED = ".superseded"
"""End of the stem of a file with results that would be made differently today."""
_MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_CONFIGS = ("config.json", "adapter_config.json")
_NO_MODEL_FILES = ("train_log.json", "training_args.json", "trainer_state.json")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_value(value: object) -> str:
    """Return a hash of a JSON value, independent of the order of keys.

    >>> hash_value({"a": 1, "b": 2}) == hash_value({"b": 2, "a": 1})
    True
    """
    return short_hash(json.dumps(value, sort_keys=True, default=str))


def prompt_hash(prompt: Prompt) -> str:
    """Return a hash of the input of a model: messages with tools, or text, prefill, and settings of decoding.

    >>> first = Prompt(id="1", request_id="r", attack="direct", mode="raw", text="How do I bake bread?")
    >>> prompt_hash(first) == prompt_hash(first.model_copy(update={"id": "2"}))
    True
    """
    return hash_value(
        prompt.model_dump(mode="json", include={"mode", "messages", "text", "prefill", "decoding", "tools"})
    )


def case_hash(prompt: Prompt, reply: Reply) -> str:
    """Return a hash of the input of a judge: the whole prompt but for its id and cost, and the text of the reply."""
    read = prompt.model_dump(mode="json", exclude={"id", "cost"}, exclude_defaults=True)
    missing = [reply.unanswered] if reply.unanswered else []
    return hash_value([read, reply.text, reply.stop_reason, *missing])


def model_files(path: str | Path) -> list[Path]:
    """Return the files of a local model folder that its output depends on: weights, config, tokenizer, template, code.

    Empty for a hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in _MODEL_FILES and file.name not in _NO_MODEL_FILES and file.is_file()
    )


def model_hash(path: str | Path) -> str:
    """Return the identity of a model: a hash of its files' content, or the hub id with its cached commit.

    The hash of an unchanged file (inode, size, times of change) is computed once a process.

    Raises:
        ModelError: a file cannot be read.
    """
    files = model_files(path)
    if not files:
        return _hub_identity(str(path))
    try:
        return short_hash(*(f"{file.name}:{_cached_hash(file, *_stamp(file))}" for file in files))
    except OSError as error:
        raise ModelError(f"{path}: cannot read it ({error.strerror}); check the folder") from error


def _stamp(file: Path) -> tuple[int, ...]:
    """Return what differs after any change of a file; a copy may keep the time of modification, but not `st_ctime`."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _cached_hash(file: Path, *_stamp: int) -> str:
    return hash_file(file)


def _hub_identity(name: str) -> str:
    """Return a hub id with the commit that is loaded; the name alone for a model that cannot be fetched.

    The config of a model that is not cached is downloaded, so that the commit is known before the model is loaded.
    """
    commit = hub_commit(name)
    if commit is None and HUB_ID.fullmatch(name):
        _download_config(name)
        commit = hub_commit(name)
    return name if commit is None else f"{split_revision(name)[0]}@{commit}"


def split_revision(name: str) -> tuple[str, str | None]:
    """Return the repository of a hub id and its revision, a branch, tag or commit; a folder has none.

    >>> split_revision("org/name@v1.0"), split_revision("org/name")
    (('org/name', 'v1.0'), ('org/name', None))
    """
    match = None if Path(name).is_dir() else HUB_ID.fullmatch(name)
    return (name, None) if match is None else (match[1], match[2])


def hub_commit(name: str) -> str | None:
    """Return the commit of a hub id's cached snapshot, which the loaders use; None for a folder, or without one."""
    if Path(name).is_dir() or not HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, revision = split_revision(name)
    files = (try_to_load_from_cache(repository, file, revision=revision) for file in _CONFIGS)
    cached = next((file for file in files if isinstance(file, str)), None)
    return None if cached is None else Path(cached).parent.name


def _download_config(name: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, revision = split_revision(name)
    for file in _CONFIGS:
        try:
            hf_hub_download(repository, file, revision=revision)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                return  # no connection: the loader reports it
        except OSError:  # no such model, or no access: the loader reports it
            return


def changed_keys(old: Producer | None, new: Producer) -> list[str]:
    """Return the names of what differs between two producers.

    >>> changed_keys({"model": "a", "max_new_tokens": "2"}, {"model": "a", "max_new_tokens": "9"})
    ['max_new_tokens (2 before, 9 now)']
    >>> changed_keys(None, {"model": "a"})
    ['no producer is recorded']
    """
    if old is None:
        return ["no producer is recorded"]
    return [
        f"{key} ({old.get(key, 'none')} before, {new.get(key, 'none')} now)"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a producer of settings: short texts as they are, long or nested ones by hash, None left out.

    >>> flat({"dtype": "float32", "adapter": None, "seed": 3})
    {'dtype': 'float32', 'seed': '3'}
    """
    return dict(_flat_items(values))


def _flat_items(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        yield key, text if len(text) <= 60 else short_hash(text)


def file_hashes(paths: Iterable[Path], name_of: Callable[[Path], str] = str) -> dict[str, str]:
    """Return the SHA-256 of each file that exists, by its name, which is its path by default."""
    return {name_of(path): _cached_hash(path, *_stamp(path)) for path in sorted(set(paths)) if path.is_file()}
