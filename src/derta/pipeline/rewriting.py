"""Safe responses that do not refuse, rewritten by a model before any training (`data.policy: rewrite`).

A new response must refuse, by the refusal judge, and open with a refusal word of the recipe; else its triple is dropped
and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from derta.config import Recipe
from derta.data.audit import opens_with_word
from derta.data.cleaning import begin_with_word, clean_triples, opens_with_refusal
from derta.data.matching import RequestTurns
from derta.data.triples import ReadTriples
from derta.errors import DataError, RecipeError
from derta.files import read_records, write_records
from derta.judges import build_judge, judge_cases
from derta.pipeline.asking import answer_of, ask_engine
from derta.protocols import Case, Display
from derta.records import Message, Prompt, Reply, Triple, Verdict

REWRITTEN = "safe_rewritten"
"""Change of a triple whose safe response was rewritten."""


class RewrittenTriples(NamedTuple):
    """Triples whose safe responses refuse, and counts of the dropped ones by reason and of the rewritten ones."""

    triples: list[Triple]
    dropped: Counter[str]
    changed: Counter[str]


def rewrite_safety(
    read: ReadTriples,
    recipe: Recipe,
    *,
    requests: Sequence[RequestTurns],
    distilled: Path | None,
    display: Display = Display(),
) -> tuple[ReadTriples, Counter[str]]:
    """Return the triples with rewritten safe responses (`policy: rewrite`), and the number of the rewritten ones.

    Without `distilled`, for an estimate, the responses of the sources stand in for the rewritten ones.
    """
    if distilled is None:
        display.logger.info("the safe responses of the source stand in for rewritten ones (policy: rewrite)")
        return read, Counter()
    path = distilled.with_name(f"{distilled.name}.safe.jsonl")
    rewritten = rewrite_triples(recipe, read.triples, requests=requests, path=path, display=display)
    read = read._replace(triples=rewritten.triples, dropped=read.dropped + rewritten.dropped)
    return read, rewritten.changed


def rewrite_triples(
    recipe: Recipe,
    triples: Sequence[Triple],
    *,
    requests: Iterable[RequestTurns],
    path: Path,
    display: Display = Display(),
) -> RewrittenTriples:
    """Return the triples with the safe responses that do not refuse rewritten by the recipe's `data.rewriter`.

    Triples that preparation drops anyway are not rewritten. The rewritten triples are written to `path`, in the format
    of triples, and the replies, with their provenance, to `*.replies.jsonl`: a stopped stage resumes.

    Args:
        recipe: The recipe.
        triples: The triples of its sources.
        requests: The evaluation requests, whose triples preparation drops.
        path: The file of the rewritten triples.
        display: Shows progress.

    Raises:
        RecipeError: the recipe has no rewriter.
        DataError: no rewritten response refuses.
        EngineError, ModelError: the rewriter cannot be used.
    """
    rewriter, words = recipe.data.rewriter, recipe.model.refusal_words
    if rewriter is None:
        raise RecipeError("expected the model of `policy: rewrite`, got none", key="data.rewriter")
    pending = find_pending(triples, requests=requests, words=words)
    if not pending:
        return RewrittenTriples(list(triples), Counter(), Counter())
    prompts = [rewrite_prompt(one, word=words[0]) for one in pending.values()]
    replies = ask_engine(
        rewriter,
        prompts,
        path=path.with_name(f"{path.stem}.replies.jsonl"),
        max_new_tokens=rewriter.max_new_tokens,
        description="rewritten safe responses",
        display=display,
    )
    new: dict[str, Triple] = {}
    dropped: Counter[str] = Counter()
    cases = [Case(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    verdicts = judge_cases(build_judge("refusal", refusal_words=words), cases)
    for triple, reply, verdict in zip(pending.values(), replies, verdicts, strict=True):
        text = answer_of(reply)
        opened = begin_with_word(text, words[0]) if recipe.data.normalize else text
        if (reason := _fault(reply, verdict, text=opened, words=words)) is None:
            new[triple.id] = triple.model_copy(update={"safe": opened})
        else:
            dropped[f"rewrite_{reason}"] += 1
    if not new:
        raise DataError(
            f"{rewriter.model}: expected rewritten responses that refuse, got none of {len(pending)} "
            f"({dict(dropped)}); use another model as `data.rewriter`, or `policy: drop`"
        )
    _store(path, list(new.values()))
    kept = [new.get(one.id, one) for one in triples if one.id in new or one.id not in pending]
    return RewrittenTriples(kept, dropped, Counter({REWRITTEN: len(new)}))


def _store(path: Path, triples: Sequence[Triple]) -> None:
    """Write triples, unless the file holds exactly these: several processes of a training may read it."""
    if not path.exists() or list(read_records(path, Triple)) != list(triples):
        write_records(path, triples)


def find_pending(
    triples: Iterable[Triple], *, requests: Iterable[RequestTurns], words: Sequence[str]
) -> dict[str, Triple]:
    """Return the triples that are rewritten, by id, without those that preparation drops for another reason.

    Their safe response does not open with a refusal or one of the refusal words, or is no refusal by the refusal judge.
    """
    clean = clean_triples(triples, evaluation_requests=requests, policy="keep").triples
    judge = build_judge("refusal", refusal_words=words)
    verdicts = judge_cases(judge, [safe_case(triple, triple.safe) for triple in clean])
    return {
        triple.id: triple
        for triple, verdict in zip(clean, verdicts, strict=True)
        if not (opens_with_refusal(triple.safe) or opens_with_word(triple.safe, words)) or verdict.refused is not True
    }


def safe_case(triple: Triple, response: str, *, name: str | None = None) -> Case:
    """Return a response to the query of a triple as a case for a judge."""
    name = triple.id if name is None else name
    prompt = Prompt(
        id=name,
        request_id=name,
        request=triple.in_context,
        attack="direct",
        messages=triple.conversation,
        tools=triple.tools,
    )
    return Case(prompt, Reply(prompt_id=name, text=response))


def rewrite_prompt(triple: Triple, *, word: str) -> Prompt:
    """Return the prompt for a new safe response: one message of the user, which every chat template takes."""
    template = (files("derta.pipeline") / "texts" / "rewrite_instructions.txt").read_text(encoding="utf-8").strip()
    text = _fill(template, {"word": word, "request": triple.in_context, "response": triple.safe})
    return Prompt(
        id=f"rewrite:{triple.id}",
        request_id=triple.id,
        request=triple.in_context,
        attack="direct",
        messages=(Message(role="user", content=text),),
        category=triple.category,
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its names replaced; braces in the values stay as they are.

    >>> _fill("{request} or {response}", {"request": "{response}", "response": "{word}"})
    '{response} or {word}'
    """
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def _fault(reply: Reply, verdict: Verdict, *, text: str, words: Sequence[str]) -> str | None:
    """Return why a reply is no safe response; None if it is one."""
    if reply.unanswered is not None:
        return "unanswered"
    if not text:
        return "empty"
    if reply.stop_reason == "length":
        return "cut_off"
    if verdict.reply_class != "refuse":
        return f"not_a_refusal_{verdict.reply_class or 'unjudged'}"
    return None if opens_with_word(text, words) else "no_refusal_word"
