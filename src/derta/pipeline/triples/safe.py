"""Safe responses of `derta triples`: a model refuses by a policy, or they are drawn from templates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from string import Formatter
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from derta.config import EngineConfig, SafeSection, parse_yaml
from derta.data.audit import opens_with_word
from derta.data.cleaning import begin_with_word
from derta.data.matching import match_key
from derta.errors import DataError, RecipeError
from derta.files import decode, format_validation_error, read_bytes
from derta.pipeline.asking import answer_of
from derta.pipeline.readiness import system_fault
from derta.pipeline.triples.asking import Models, ask_model, dropped_prompts, no_answer_reason, refusal_verdicts
from derta.pipeline.triples.rows import NO_COST, Cost, Dropped, Origin, dropped_reply, origin_of
from derta.protocols import Case, Display
from derta.records import Message, Prompt, Record, Request, Text, Verdict, short_hash

REPLIES = "safe.replies.jsonl"
TEMPLATES = "templates"
"""Origin of responses that no model wrote."""
TRIES = 50
"""Draws of a response until it is none of those to the same request."""


class SafeResponse(NamedTuple):
    """A safe response that was kept."""

    text: str
    origin: Origin


class SafeResponses(NamedTuple):
    """The kept responses by the id of the request, the dropped replies, and the cost."""

    kept: dict[str, list[SafeResponse]]
    dropped: list[Dropped]
    cost: Cost


class SafeTemplates(Record):
    """Templates of safe responses: shapes such as `{opening} {reason}`, and the texts of their parts."""

    shapes: Annotated[tuple[Text, ...], Field(min_length=1)]
    parts: dict[str, Annotated[tuple[Text, ...], Field(min_length=1)]] = Field(default_factory=dict)

    def draw(self, rng: Random) -> str:
        """Return a response: a shape with a text of each of its parts.

        >>> templates = SafeTemplates(shapes=("{no} {why}",), parts={"no": ("Sorry, no.",), "why": ("It is unsafe.",)})
        >>> templates.draw(Random(0))
        'Sorry, no. It is unsafe.'
        """
        shape = rng.choice(self.shapes)
        return "".join(
            text + (rng.choice(self.parts[name]) if name else "") for text, name, _, _ in Formatter().parse(shape)
        )

    def draw_several(self, count: int, *, seed: str) -> list[str]:
        """Return responses that differ, as far as `TRIES` draws for each find some."""
        rng = Random(short_hash("safe", seed))  # noqa: S311 - a reproducible draw
        drawn: list[str] = []
        for _ in range(count):
            tries = (self.draw(rng) for _ in range(TRIES))
            drawn.append(next((text for text in tries if text not in drawn), "") or self.draw(rng))
        return drawn

    def openings(self) -> list[str]:
        """Return the starts of all responses."""
        starts: list[str] = []
        for shape in self.shapes:
            text, name, _, _ = next(iter(Formatter().parse(shape)))
            starts += [text] if text.strip() or not name else [text + one for one in self.parts[name]]
        return starts


def read_templates(path: str | None, *, words: Sequence[str], normalize: bool) -> SafeTemplates:
    """Load templates: those of the package without a path.

    Raises:
        DataError: the file is no mapping of shapes and parts, a shape names an unknown part, or a response would not
            open with a refusal word.
    """
    where = "the package's templates" if path is None else path
    text = _shipped("safe_templates.yaml") if path is None else decode(read_bytes(Path(path)), where=path)
    try:
        templates = SafeTemplates.model_validate(parse_yaml(text))
        names = [name for shape in templates.shapes for _, name, _, _ in Formatter().parse(shape) if name is not None]
    except ValidationError as error:
        raise DataError(f"{where}: not templates: {format_validation_error(error)}; see docs/triples.md") from error
    except ValueError as error:
        raise DataError(f"{where}: expected YAML with `shapes` and `parts`: {error}; see docs/triples.md") from error
    if unknown := [name for name in names if name not in templates.parts]:
        raise DataError(f"{where}: expected shapes of the parts {sorted(templates.parts)}, got {unknown[0]!r:.60}")
    for opening in templates.openings():
        if not opens_with_word(_opened(opening, words, normalize=normalize), words):
            raise DataError(
                f"{where}: expected responses that open with a refusal word ({', '.join(words)}), got {opening!r:.60}; "
                "change it, or set `safe.templates` to templates for these words"
            )
    return templates


def make_safe(
    requests: Sequence[Request],
    section: SafeSection,
    *,
    counts: Mapping[str, int],
    refusal_words: Sequence[str],
    out: Path,
    models: Models,
    display: Display = Display(),
) -> SafeResponses:
    """Return safe responses to requests that open with a refusal word and refuse.

    Args:
        requests: The requests, with unique ids.
        section: The model with its policy, or the templates.
        counts: Number of responses that each request needs, by id.
        refusal_words: The refusal words of the recipe.
        out: The folder for the prompts and replies.
        models: The loaded model, if any.
        display: Shows progress.

    Raises:
        EngineError, ModelError: as in `ask_model`.
    """
    config = section.engine_config
    if config is None:
        return _from_templates(requests, section, counts=counts, words=refusal_words)
    answered = ask_model(
        models,
        config,
        safe_prompts(requests, section, config=config, word=refusal_words[0]),
        path=out / REPLIES,
        max_new_tokens=section.max_new_tokens,
        description="safe responses",
        sampling=section.sampling,
        display=display,
    )
    kept: defaultdict[str, list[SafeResponse]] = defaultdict(list)
    dropped = dropped_prompts("safe", answered.refused)
    verdicts = refusal_verdicts(answered.cases, refusal_words=refusal_words)
    for case, verdict in zip(answered.cases, verdicts, strict=True):
        text = _opened(answer_of(case.reply), refusal_words, normalize=section.normalize)
        name = case.prompt.request_id
        reason = _safe_reason(case, verdict, text=text, words=refusal_words)
        if reason is None and match_key(text) in {match_key(one.text) for one in kept[name]}:
            reason = "repeated_response"
        elif reason is None and len(kept[name]) == counts[name]:
            reason = "beyond_responses"
        if reason is not None:
            dropped.append(dropped_reply("safe", case.reply, reason))
        else:
            kept[name].append(SafeResponse(text, origin_of(config.model, case.prompt, case.reply, verdict)))
    return SafeResponses(dict(kept), dropped, answered.cost)


def _from_templates(
    requests: Sequence[Request], section: SafeSection, *, counts: Mapping[str, int], words: Sequence[str]
) -> SafeResponses:
    """Return drawn responses; the draw depends on the request only."""
    templates = read_templates(section.templates, words=words, normalize=section.normalize)
    origin = Origin(source=TEMPLATES, version=short_hash(templates.model_dump_json()))

    kept = {
        one.id: [
            SafeResponse(_opened(text, words, normalize=section.normalize), origin)
            for text in templates.draw_several(counts.get(one.id, 0), seed=one.id)
        ]
        for one in requests
    }
    return SafeResponses(kept, [], NO_COST)


def safe_prompts(requests: Sequence[Request], section: SafeSection, *, config: EngineConfig, word: str) -> list[Prompt]:
    """Return the prompts for safe responses: the instructions with the policy, and the request.

    The instructions precede a system message of the request. A template without system messages gets them in the
    user's message.
    """
    instructions = _shipped("safe_instructions.txt").strip().replace("{word}", word)
    if policy := read_policy(section):
        instructions += f"\n\nThis is the policy that you follow:\n{policy}"
    in_system = policy_place(section, config) == "system"
    return [_safe_prompt(request, instructions, in_system=in_system) for request in requests]


def policy_place(section: SafeSection, config: EngineConfig) -> str:
    """Return where the instructions are: in the `system` message or in the `user` message.

    Raises:
        ModelError: the model has no tokenizer or no chat template.
    """
    if section.policy_in != "auto":
        return section.policy_in
    return "system" if system_fault(config) is None else "user"


def read_policy(section: SafeSection) -> str:
    """Return the text of the policy; empty without one.

    Raises:
        RecipeError: the file of the policy is empty.
    """
    if section.policy_file is None:
        return (section.policy or "").strip()
    policy = decode(read_bytes(Path(section.policy_file)), where=section.policy_file).strip()
    if not policy:
        raise RecipeError(f"expected a policy in {section.policy_file}, got an empty file", key="safe.policy_file")
    return policy


def _safe_prompt(request: Request, instructions: str, *, in_system: bool) -> Prompt:
    messages = list(request.conversation)
    if in_system:
        if messages[0].role == "system":
            instructions = f"{instructions}\n\n{messages.pop(0).content}"
        messages.insert(0, Message(role="system", content=instructions))
    else:
        messages[-1] = Message(role="user", content=f"{instructions}\n\nThe message to decline:\n{request.text}")
    return Prompt(
        id=f"safe:{request.id}",
        request_id=request.id,
        request=request.in_context,
        attack="direct",
        messages=tuple(messages),
        category=request.category,
        tools=request.tools,
    )


def _opened(text: str, words: Sequence[str], *, normalize: bool) -> str:
    return begin_with_word(text, words[0]) if normalize else text


def _safe_reason(case: Case, verdict: Verdict, *, text: str, words: Sequence[str]) -> str | None:
    """Return why a reply is no safe response, or None if it is one."""
    reason = no_answer_reason(case, verdict, text=text)
    if reason not in (None, "refused"):
        return reason
    if verdict.reply_class != "refuse":
        return f"not_a_refusal_{verdict.reply_class}"
    if not opens_with_word(text, words):
        return "no_refusal_word"
    return "cut_off" if case.reply.stop_reason == "length" else None


def _shipped(name: str) -> str:
    return (files("derta.pipeline.triples") / "texts" / name).read_text(encoding="utf-8")
