"""Models and tokenizers from folders and the hub; what is wrong with one is told in one line."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from derta.errors import ModelError, is_out_of_memory
from derta.peft_warnings import without_false_warnings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@contextmanager
def _in_one_line(path: str, what: str) -> Generator[None]:
    """Turn what transformers, peft and safetensors raise on a bad folder or hub id into a `ModelError`."""
    try:
        yield
    # an AssertionError is torch's way of saying that it was built without CUDA
    except (
        OSError, ValueError, RuntimeError, ImportError, KeyError, AssertionError, MemoryError, SafetensorError
    ) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise ModelError(
                f"{path}: out of memory while {what} was loaded; use a 16-bit `dtype`, a smaller model, more devices "
                "or another one"
            ) from error
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{path}: cannot load {what} ({first}); check the folder or hub id") from error


def check_place(path: str, *, needs: str) -> None:
    """Accept a folder that holds the file `needs`, or something that looks like a hub id.

    Raises:
        ModelError: neither, or a folder without that file.
    """
    folder = Path(path)
    if folder.is_dir():
        if (folder / needs).is_file():
            return
        hint = "; it holds an adapter: give its base model, and this folder as `adapter`" if _is_adapter(folder) else ""
        raise ModelError(f"{path}: expected a folder with {needs}, found none in it{hint or '; check the path'}")
    if not _HUB_ID.fullmatch(path):
        raise ModelError(
            f"{path}: expected a model folder or a hub id (org/name), found no such folder; check the path"
        )


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        ModelError: there is no model, or no tokenizer with it.
    """
    from transformers import AutoTokenizer

    check_place(path, needs="config.json")
    with _in_one_line(path, "its tokenizer"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def load_model(
    path: str, *, adapter: str | None, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> Any:
    """Load a causal language model in eval mode, from safetensors only, with an adapter on top if one is given.

    Raises:
        ModelError: there is no such model, it is no causal language model, or weights are missing from it.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    if dtype not in DTYPES:
        raise ModelError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    check_place(path, needs="config.json")
    if adapter is not None:
        check_place(adapter, needs="adapter_model.safetensors")
    with _in_one_line(path, "the model"):
        model, found = auto.from_pretrained(
            path,
            dtype=dtype,
            device_map=device,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{path}: {len(missing)} weights are missing, {missing[0]} first; they would be random. Fetch it again"
        )
    if adapter is not None:
        with _in_one_line(adapter, "the adapter"), without_false_warnings():
            model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def give_back_memory() -> None:
    """Free what nobody refers to any more, and give it back to the devices, where another process may want it."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
