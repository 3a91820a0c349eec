"""Check of a file of prompts that is too large to load."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from pathlib import Path

from derta.errors import DataError
from derta.files import read_records
from derta.pipeline.generate import check_decoding, read_prompts
from derta.records import Prompt


def check_prompt_file(path: Path, *, engine: str) -> int:
    """Read a file of prompts and return their number; 8 bytes for each are in memory, a hash of its id.

    Raises:
        DataError: Two prompts share an id, a line is no prompt, or there is none.
        EngineError: The engine does not support an option of a prompt.
    """
    import numpy as np

    hashes = array("Q")
    for prompt in read_prompts(path):
        check_decoding(engine, [prompt])
        hashes.append(_hash_id(prompt.id))
    if not hashes:
        raise DataError(f"{path}: expected prompts, got none")
    ordered = np.sort(np.frombuffer(hashes, dtype=np.uint64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    seen: set[str] = set()  # of the ids that share a hash
    for prompt in read_records(path, Prompt) if repeated else ():
        if prompt.id in seen:
            raise DataError(f"{path}: expected unique ids, got {prompt.id!r} twice; rename or remove one of the rows")
        if _hash_id(prompt.id) in repeated:
            seen.add(prompt.id)
    return len(hashes)


def _hash_id(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
