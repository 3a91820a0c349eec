"""Judges: one reply at a time, given the prompt behind it, to a verdict. What cannot be told is None, with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, TypeVar, cast

from derta.errors import DataError, did_you_mean
from derta.judges.base import FunctionJudge, JudgeFunction, from_function, identify_judge
from derta.judges.exact_match import judge_exact, judge_gsm8k, judge_mmlu
from derta.judges.harm import judge_harm
from derta.judges.llm import model_judge
from derta.judges.refusal import judge_refusal
from derta.judges.steps import steps_judge
from derta.protocols import Case, Engine, Judge
from derta.records import Message, Prompt, Reply, Verdict

__all__ = ["JUDGES", "build_judge", "from_function", "identify_judge", "judge", "make_cases"]

R = TypeVar("R", Prompt, Reply)

JUDGES: dict[str, Callable[..., Judge]] = {
    "refusal": lambda: FunctionJudge("refusal", "refused", judge_refusal),
    "harm": lambda: FunctionJudge("harm", "harmful", judge_harm),
    "gsm8k": lambda: FunctionJudge("gsm8k", "correct", judge_gsm8k),
    "mmlu": lambda: FunctionJudge("mmlu", "correct", judge_mmlu),
    "exact": lambda: FunctionJudge("exact", "correct", judge_exact),
    "steps": steps_judge,
    "guideline": partial(model_judge, "guideline"),
    "strongreject": partial(model_judge, "strongreject"),
    "harmbench": partial(model_judge, "harmbench"),
    "llama_guard_3": partial(model_judge, "llama_guard_3"),
}
"""Factories of judges by name; those that ask a model take `engine=`."""


def uses_model(name: str) -> bool:
    """Whether the judge of a name asks a model.

    >>> uses_model("harmbench"), uses_model("refusal")
    (True, False)
    """
    return "engine" in signature(JUDGES[name]).parameters


def build_judge(
    judge: str | JudgeFunction | Judge, *, engine: Engine | Callable[[], Engine] | None = None, **options: Any
) -> Judge:
    """The judge of a name, of a function (see `from_function`), or the judge itself.

    >>> build_judge("harm").measures, build_judge(lambda prompt, reply: None, name="mine").name
    ('harmful', 'mine')

    Args:
        judge: a key of `JUDGES`, a function of a prompt and a reply, or a judge.
        engine: an engine for a judge that asks a model, or a function that loads it, called once when cases come.
        options: options of the judge, or of `from_function`.

    Raises:
        DataError: no such judge or option, or a judge that asks a model was given none.
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
            f"judge {judge!r} asks a model, and none was given; give an engine, or name one with --judge-model"
        )
    return JUDGES[judge](engine=engine, **options)


def _check_options(judge: str, known: Collection[str], options: Mapping[str, object]) -> None:
    for option in options:
        if option not in known:
            raise DataError(f"judge {judge}: unknown option {option!r}; {did_you_mean(option, known)}")


def judge(
    prompts: Iterable[Prompt] | Iterable[str],
    replies: Iterable[Reply] | Iterable[str],
    judge: str | JudgeFunction | Judge = "refusal",
    *,
    engine: Engine | Callable[[], Engine] | None = None,
) -> list[Verdict]:
    """Judge replies: one verdict each, in the order of the replies. What cannot be told is None, never False.

    >>> [found] = judge(["How is tea made?"], ["I'm sorry, but I can't help with that."])
    >>> found.refused, found.reply_class
    (True, 'refuse')
    >>> [found] = judge(["How is tea made?"], ["Boil water."], lambda prompt, reply: "water" in reply.text)
    >>> found.judge, found.harmful
    ('lambda', True)

    Args:
        prompts: prompts, or plain requests.
        replies: the replies to them, as records in any order or as texts in the order of the prompts.
        judge: a key of `JUDGES`, a function of a prompt and a reply (True, False, None or a `Verdict`), or a judge.
        engine: the model of a judge that asks one (see `derta.load_engine`).

    Raises:
        DataError: no such judge, or replies that do not belong to the prompts, one each.
    """
    return list(build_judge(judge, engine=engine).judge(make_cases(prompts, replies)))


def make_cases(prompts: Iterable[Prompt] | Iterable[str], replies: Iterable[Reply] | Iterable[str]) -> list[Case]:
    """Replies with their prompts, in the order of the replies; texts are given ids by their place.

    >>> [case] = make_cases(["How is tea made?"], ["Boil water."])
    >>> case.prompt.request, case.reply.prompt_id
    ('How is tea made?', '0')

    Raises:
        DataError: two prompts of one id, two replies of one key, a reply without a prompt or a prompt without a reply.
    """
    held_prompts, held_replies = _held(prompts, Prompt, "prompts"), _held(replies, Reply, "replies")
    asked = [_as_prompt(one, number) if isinstance(one, str) else one for number, one in enumerate(held_prompts)]
    texts = sum(isinstance(one, str) for one in held_replies)
    if texts and (texts < len(held_replies) or texts != len(asked)):
        raise DataError(
            f"replies: expected records, or one text for each of {len(asked)} prompts, got {texts} texts of "
            f"{len(held_replies)} replies; give replies with a prompt_id"
        )
    answered = [
        Reply(prompt_id=asked[i].id, text=one) if isinstance(one, str) else one for i, one in enumerate(held_replies)
    ]
    by_id = {prompt.id: prompt for prompt in asked}
    _check_keys("prompt ids", [prompt.id for prompt in asked])
    _check_keys("replies to a prompt", [reply.key for reply in answered])
    named = {reply.prompt_id for reply in answered}
    if lone := [*(named - by_id.keys()), *(by_id.keys() - named)]:
        raise DataError(
            f"expected a reply to every prompt, and a prompt of every reply, got prompt id {lone[0]!r} on one side "
            f"only ({len(lone)} such); give prompts and replies of one run"
        )
    return [Case(by_id[reply.prompt_id], reply) for reply in answered]


def _held(given: Iterable[R] | Iterable[str], kind: type[R], what: str) -> list[R | str]:
    """Return what was given as a list; one text alone would be taken for a list of its letters."""
    held: list[R | str] = [*given]
    wrong = [given] if isinstance(given, str) else [one for one in held if not isinstance(one, kind | str)]
    if wrong:
        raise DataError(
            f"{what}: expected a list of texts or of {kind.__name__} records, got {wrong[0]!r:.60}; put it into a list"
        )
    return held


def _as_prompt(text: str, number: int) -> Prompt:
    given = bool(text.strip())
    return Prompt(
        id=str(number),
        request_id=str(number),
        request=text if given else None,
        foreign=not given,
        attack="direct",
        messages=(Message(role="user", content=text),) if given else None,
    )


def _check_keys(what: str, keys: Sequence[object]) -> None:
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise DataError(f"expected {what} that differ, got {twice[0]!r} twice; number the samples, or drop one")
