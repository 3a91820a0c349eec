"""Loading of models, adapters and tokenizers from local folders and the Hugging Face hub, with one-line errors."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from derta.errors import ModelError, is_out_of_memory
from derta.provenance import HUB_ID, hub_commit, split_revision

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
_LACKS_ATTENTION = re.compile(r"^\w+ does not support (Flash Attention|an attention implementation)")
_FALSE_WARNING = r"The following (rank|alpha)_pattern keys did not match .*gate_up_proj'\]"


@contextmanager
def _as_model_error(path: str, what: str, attn_implementation: str | None = None) -> Generator[None]:
    """Convert the loading errors of transformers, peft and safetensors into a `ModelError` of one line."""
    try:
        yield
    # torch raises an AssertionError if it was built without CUDA
    except (
        OSError, ValueError, RuntimeError, ImportError, KeyError, AssertionError, MemoryError, SafetensorError
    ) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise ModelError(
                f"{path}: out of memory while {what} was loaded; use a 16-bit `dtype`, a smaller model, more devices "
                "or another one"
            ) from error
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if isinstance(error, ImportError) and attn_implementation is not None:
            raise ModelError(
                f"{path}: cannot use attention by {attn_implementation} ({first}); install it, or use sdpa"
            ) from error
        if attn_implementation is not None and isinstance(error, ValueError) and _LACKS_ATTENTION.search(first):
            raise ModelError(
                f"{path}: {first.split()[0]} does not support attention by {attn_implementation}; set "
                "attn_implementation to eager, or to another one that it supports"
            ) from error
        raise ModelError(f"{path}: cannot load {what} ({first}); check the folder or hub id") from error


def keep_attention_off_cudnn() -> None:
    """Choose other kernels than cuDNN's for attention by sdpa in this process; no effect without a GPU.

    On Hopper and Blackwell GPUs torch (2.11, for one) prefers cuDNN for attention in 16 bits, and cuDNN builds a plan
    for every new shape: tens of milliseconds in decoding, up to a second in a training step. Batches of text have a new
    shape each time, a KV cache at every token, so the plans take more time than all else (LOG.md). For batches of one
    shape, `torch.backends.cuda.enable_cudnn_sdp(True)` turns it on again.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def check_model_path(path: str, *, needs: str) -> None:
    """Validate a model path: a folder with the file `needs`, or a string in the format of a hub id.

    Raises:
        ModelError: the path is neither, or the folder lacks the file.
    """
    folder = Path(path)
    if folder.is_dir():
        if (folder / needs).is_file():
            return
        hint = "it holds an adapter: give its base model, and this folder as `adapter`"
        if not is_adapter(folder):
            hint = "check the path"
        raise ModelError(f"{path}: expected a folder with {needs}, found none in it; {hint}")
    before, at, revision = path.rpartition("@")
    if at and Path(before).is_dir():
        raise ModelError(f"{before}: expected no revision of a local folder, got {revision!r:.80}; remove it")
    if not HUB_ID.fullmatch(path):
        raise ModelError(
            f"{path}: expected a model folder or a hub id (org/name), found no such folder; check the path"
        )


def hub_source(path: str) -> tuple[str, dict[str, Any]]:
    """Return the repository of a hub id and the loaders' argument for the commit that provenance records.

    Without a cached commit the argument is the revision of `org/name@revision`; it is empty for a folder.
    """
    repository, revision = split_revision(path)
    revision = hub_commit(path) or revision
    return repository, {} if revision is None else {"revision": revision}


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has a PEFT adapter."""
    return (folder / "adapter_config.json").is_file()


def base_of_adapter(folder: Path) -> str:
    """Return the folder or hub id of the base model that an adapter names.

    Raises:
        ModelError: its config cannot be read, or names none.
    """
    path = folder / "adapter_config.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: expected the config of a PEFT adapter, cannot read it ({error}); check it"
        ) from error
    base = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: expected the base model in base_model_name_or_path, got none; name the base model")
    return base


def load_tokenizer(
    path: str, *, adapter: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, or that of an adapter on it, which has the chat template of its training.

    Raises:
        ModelError: the folder or hub id has no model or adapter, or the model has no tokenizer.
    """
    from transformers import AutoTokenizer

    check_model_path(path, needs="config.json")
    source = path
    if adapter is not None:
        check_model_path(adapter, needs="adapter_config.json")
        source = adapter if _has_file(adapter, "tokenizer_config.json") else path
    with _as_model_error(source, "its tokenizer"):
        name, pinned = hub_source(source)
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **pinned)


def _has_file(path: str, name: str) -> bool:
    """Return whether a model's folder has a file, or its repository, from which the file is downloaded."""
    from transformers.utils.hub import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    with _as_model_error(path, name):
        repository, pinned = hub_source(path)
        return cached_file(repository, name, **missing, **pinned) is not None


def load_model(
    path: str,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = "auto",
    attn_implementation: str | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal language model in eval mode, from safetensors only.

    Args:
        path: A folder from `save_pretrained`, or a hub id (`org/name`, or `org/name@revision`).
        dtype: `auto` (as saved), `float32`, `bfloat16`, `float16`, or a `torch.dtype`.
        device: `auto` (all accelerators, or the CPU if there are none), `cpu`, `cuda:1` and so on. None leaves the
            placement to the trainer (accelerate, FSDP).
        attn_implementation: `sdpa`, `flash_attention_2` and so on; None is the default of Transformers.
        quantization_config: Quantization of the weights while they are loaded.
        trust_remote_code: Run Python code from the model's folder or repository.

    Raises:
        ModelError: the model does not exist, is not a causal language model, lacks weights or does not fit into
            memory, or the package of `attn_implementation` is missing.
    """
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ModelError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    check_model_path(path, needs="config.json")
    is_local = Path(path).is_dir()  # a download shows its progress
    with (
        _as_model_error(path, "the model", attn_implementation),
        without_progress_bars() if is_local else nullcontext(),
    ):
        name, pinned = hub_source(path)
        # None would say that the weights are not quantized, also of a folder whose config says that they are
        quantization = {} if quantization_config is None else {"quantization_config": quantization_config}
        model, loading_info = auto.from_pretrained(
            name,
            dtype=dtype,
            device_map=device,
            attn_implementation=attn_implementation,
            **quantization,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **pinned,
        )
    if missing := sorted(loading_info["missing_keys"]):
        raise ModelError(
            f"{path}: {len(missing)} weights are missing, {missing[0]} first; they would be random. Fetch it again"
        )
    return model.eval()


def load_config(path: str, *, trust_remote_code: bool = False) -> Any:
    """Load the config of a model, without its weights.

    Raises:
        ModelError: the folder or hub id has no config.
    """
    from transformers import AutoConfig

    check_model_path(path, needs="config.json")
    with _as_model_error(path, "the config"):
        name, pinned = hub_source(path)
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **pinned)


def position_limit(config: Any) -> int | None:
    """Return the maximum number of positions of a model with this config, or None if there is no limit."""
    # not every config has this setting, and some have it under another name that the attribute maps
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def load_adapter(model: PreTrainedModel, path: str, *, trainable: bool = False) -> PeftModel:
    """Load an adapter onto a model, in eval mode; with `trainable`, its parameters have gradients.

    A generation config in the adapter's folder replaces the model's: it has the stop tokens of the adapter's training.

    Raises:
        ModelError: the folder or hub id has no adapter, or the adapter is for another model.
    """
    from peft import PeftModel
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    check_model_path(path, needs="adapter_model.safetensors")
    with _as_model_error(path, "the adapter"), without_false_warnings():
        name, pinned = hub_source(path)
        adapted = PeftModel.from_pretrained(model, name, is_trainable=trainable, **pinned).eval()
        if _has_file(path, GENERATION_CONFIG_NAME):
            model.generation_config = GenerationConfig.from_pretrained(name, **pinned)
        return adapted


@contextmanager
def without_false_warnings() -> Generator[None]:
    """Add or load adapters in this block without PEFT's false warning about fused experts.

    PEFT 0.21 looks up the rank of a fused parameter among modules and warns that it is ignored, but uses it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _FALSE_WARNING, RuntimeWarning)
        yield


@contextmanager
def without_progress_bars() -> Generator[None]:
    """Load and save models in this block without the progress bars of Transformers."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    if not is_progress_bar_enabled():
        yield
        return
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def release_memory() -> None:
    """Collect garbage and empty the device cache, so that other processes can use the memory."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
