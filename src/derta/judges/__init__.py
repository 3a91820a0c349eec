"""Judges that return a verdict for each reply to a prompt; an unscored verdict is None and has a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from inspect import signature
from typing import Any, TypeVar, cast

from derta.errors import DataError, did_you_mean
from derta.judges.base import FunctionJudge, JudgeFunction, from_function, identify_judge, judge_cases
from derta.judges.exact_match import judge_exact, judge_gsm8k, judge_mmlu
from derta.judges.harm import judge_harm
from derta.judges.model_judge import ModelJudge, llm
from derta.judges.refusal import refusal_judge
from derta.judges.steps import steps_judge
from derta.protocols import Case, Engine, Judge
from derta.records import Message, Prompt, Reply, Verdict, short_hash

__all__ = [
    "JUDGES",
    "build_judge",
    "from_function",
    "identify_judge",
    "judge",
    "judge_cases",
    "judge_producer",
    "llm",
    "make_cases",
]

R = TypeVar("R", Prompt, Reply)

JUDGES: dict[str, Callable[..., Judge]] = {
    "refusal": refusal_judge,
    "harm": lambda: FunctionJudge("harm", "harmful", judge_harm),
    "gsm8k": lambda: FunctionJudge("gsm8k", "correct", judge_gsm8k),
    "mmlu": lambda: FunctionJudge("mmlu", "correct", judge_mmlu),
    "exact": lambda: FunctionJudge("exact", "correct", judge_exact),
    "steps": steps_judge,
    "guideline": partial(llm, "guideline"),
    "strongreject": partial(llm, "strongreject"),
    "harmbench": partial(llm, "harmbench"),
    "llama_guard_3": partial(llm, "llama_guard_3"),
}
"""Factories of judges by name; judges that use a model have the argument `engine=`."""


def uses_model(name: str) -> bool:
    """Return whether the judge of a name uses a model.

    >>> uses_model("harmbench"), uses_model("refusal")
    (True, False)
    """
    return "engine" in signature(JUDGES[name]).parameters


def build_judge(
    judge: str | JudgeFunction | Judge, *, engine: Engine | Callable[[], Engine] | None = None, **options: Any
) -> Judge:
    """Return the judge of a name or of a function (see `from_function`); a judge is returned unchanged.

    >>> build_judge("harm").measures, build_judge(lambda prompt, reply: None, name="mine").name
    ('harmful', 'mine')

    Args:
        judge: Key of `JUDGES`, a function of a prompt and a reply, or a judge.
        engine: Engine of a judge that uses a model, or a function that loads it, called once for the first cases.
        options: Options of the judge, or of `from_function`.

    Raises:
        DataError: Unknown judge or option, or no engine for a judge that uses a model.
    """
    if isinstance(judge, Judge):
        _check_options(judge.name, (), options)
        return judge
    if callable(judge):
        _check_options(getattr(judge, "__name__", "function"), ("measures", "name", "version"), options)
        return from_function(judge, **options)
    if not isinstance(cast("object", judge), str):
        raise DataError(f"judge: expected a name, a judge or a function of a prompt and its reply, got {judge!r:.60}")
    if judge not in JUDGES:
        raise DataError(f"unknown judge {judge!r}; {did_you_mean(judge, JUDGES)}")
    _check_options(judge, [name for name in signature(JUDGES[judge]).parameters if name != "engine"], options)
    if not uses_model(judge):
        return JUDGES[judge](**options)
    if engine is None:
        raise DataError(
            f"judge {judge!r} uses a model: expected an engine, got none; pass `engine=`, or set --judge-model"
        )
    return JUDGES[judge](engine=engine, **options)


def judge_producer(judge: Judge) -> dict[str, str]:
    """Return the provenance of a judge's verdicts: its name and code, and the model of one that asks a model.

    A user's own function counts by its name and source, or by its `version`.
    """
    if isinstance(judge, ModelJudge):
        return judge.producer()
    if isinstance(judge, FunctionJudge) and str(judge.function.__module__).startswith(f"{__name__}."):
        return {"judge": judge.name, "code": _code_hash(), "version": judge.version or ""}
    return {"judge": identify_judge(judge)}


@cache
def _code_hash() -> str:
    """Return a hash of this package's modules, word lists and weights."""
    parts = sorted((part for part in _walk(files(__name__))), key=lambda part: part[0])
    return short_hash(*(f"{name}:{sha256(content).hexdigest()}" for name, content in parts))


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, name)
        elif not name.endswith(".pyc"):
            yield name, entry.read_bytes()


def _check_options(judge: str, valid_names: Collection[str], options: Mapping[str, object]) -> None:
    """Raise an error for an option that is not a valid name."""
    for option in options:
        if option not in valid_names:
            raise DataError(f"judge {judge}: unknown option {option!r}; {did_you_mean(option, valid_names)}")


def judge(
    prompts: Iterable[Prompt] | Iterable[str],
    replies: Iterable[Reply] | Iterable[str],
    judge: str | JudgeFunction | Judge = "refusal",
    *,
    engine: Engine | Callable[[], Engine] | None = None,
) -> list[Verdict]:
    """Return one verdict for each reply, in the order of the replies; an unscored verdict is None, never False.

    >>> [verdict] = judge(["How is tea made?"], ["I'm sorry, but I can't help with that."])
    >>> verdict.refused, verdict.reply_class
    (True, 'refuse')
    >>> [verdict] = judge(["How is tea made?"], ["Boil water."], lambda prompt, reply: "water" in reply.text)
    >>> verdict.judge, verdict.harmful
    ('lambda', True)

    Args:
        prompts: Prompts, or texts of requests.
        replies: Replies to the prompts, as records in any order or as texts in the order of the prompts.
        judge: Key of `JUDGES`, a function of a prompt and a reply (it returns True, False, None or a `Verdict`), or a
            judge.
        engine: Engine of a judge that uses a model (see `derta.load_engine`).

    Raises:
        DataError: Unknown judge, or prompts and replies that do not match.
    """
    return list(judge_cases(build_judge(judge, engine=engine), make_cases(prompts, replies)))


def make_cases(prompts: Iterable[Prompt] | Iterable[str], replies: Iterable[Reply] | Iterable[str]) -> list[Case]:
    """Return the replies with their prompts, in the order of the replies; the default id of a text is its index.

    >>> [case] = make_cases(["How is tea made?"], ["Boil water."])
    >>> case.prompt.request, case.reply.prompt_id
    ('How is tea made?', '0')

    Raises:
        DataError: Duplicate prompt ids or reply keys, a reply without a prompt, or a prompt without a reply.
    """
    prompt_list, reply_list = _as_list(prompts, Prompt, "prompts"), _as_list(replies, Reply, "replies")
    prompt_records = [
        _as_prompt(one, number) if isinstance(one, str) else one for number, one in enumerate(prompt_list)
    ]
    num_texts = sum(isinstance(one, str) for one in reply_list)
    if num_texts and (num_texts < len(reply_list) or num_texts != len(prompt_records)):
        raise DataError(
            f"replies: expected records, or one text for each of {len(prompt_records)} prompts, got {num_texts} texts "
            f"of {len(reply_list)} replies; pass replies with a prompt_id"
        )
    reply_records = [
        Reply(prompt_id=prompt_records[i].id, text=one) if isinstance(one, str) else one
        for i, one in enumerate(reply_list)
    ]
    by_id = {prompt.id: prompt for prompt in prompt_records}
    _check_keys("prompt ids", [prompt.id for prompt in prompt_records])
    _check_keys("replies to a prompt", [reply.key for reply in reply_records])
    reply_ids = {reply.prompt_id for reply in reply_records}
    if unmatched := [*(reply_ids - by_id.keys()), *(by_id.keys() - reply_ids)]:
        raise DataError(
            f"expected a reply to every prompt, and a prompt for every reply, got prompt id {unmatched[0]!r} on one "
            f"side only ({len(unmatched)} in total); pass prompts and replies of one run"
        )
    return [Case(by_id[reply.prompt_id], reply) for reply in reply_records]


def _as_list(values: Iterable[R] | Iterable[str], kind: type[R], what: str) -> list[R | str]:
    """Return the input as a list; a single string is an error, since it would be split into its letters."""
    items: list[R | str] = [*values]
    wrong = [values] if isinstance(values, str) else [item for item in items if not isinstance(item, kind | str)]
    if wrong:
        raise DataError(
            f"{what}: expected a list of texts or of {kind.__name__} records, got {wrong[0]!r:.60}; pass a list"
        )
    return items


def _as_prompt(text: str, number: int) -> Prompt:
    """Return a request as a prompt with its index as the id; an empty text becomes a prompt without a request."""
    has_request = bool(text.strip())
    return Prompt(
        id=str(number),
        request_id=str(number),
        request=text if has_request else None,
        foreign=not has_request,
        attack="direct",
        messages=(Message(role="user", content=text),) if has_request else None,
    )


def _check_keys(what: str, keys: Sequence[object]) -> None:
    """Raise an error for duplicate keys."""
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise DataError(f"expected unique {what}, got {twice[0]!r} twice; number the samples, or remove one")
