import pytest

from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, EngineError
from derta.files import read_records, write_records
from derta.pipeline.generate import check_decoding, generate_file, generate_missing
from derta.protocols import Display
from derta.records import Decoding, Message, Prompt, Reply
from recorded_progress import RecordedProgress


def prompt(name, **fields):
    return Prompt(
        id=name,
        request_id=name,
        request="Who?",
        attack="direct",
        messages=(Message(role="user", content="Who?"),),
        **fields,
    )


PROMPTS = [prompt(name) for name in ("a", "b", "c")]
LIMITS = {"a": 3, "b": 1, "c": 3}
ONE_TWO_THREE = ScriptedModel(lambda _: "one two three four")


class Recording:
    """Scripted engine that records the prompts of every call."""

    def __init__(self, *, lose=()):
        self.calls = []
        self.lose = lose

    def generate(self, prompts, *, max_new_tokens):
        self.calls.append(([one.id for one in prompts], max_new_tokens))
        return ONE_TWO_THREE.generate(
            [one for one in prompts if one.id not in self.lose], max_new_tokens=max_new_tokens
        )


def test_every_prompt_has_its_own_token_limit_and_replies_come_in_the_order_of_prompts(tmp_path):
    engine = Recording()
    replies = generate_missing(engine, PROMPTS, path=tmp_path / "replies.jsonl", max_new_tokens=LIMITS)
    assert [(one.prompt_id, one.text) for one in replies] == [
        ("a", "one two three"),
        ("b", "one"),
        ("c", "one two three"),
    ]
    assert engine.calls == [(["b"], 1), (["a", "c"], 3)]


def test_only_missing_replies_are_generated_and_progress_starts_with_the_existing_ones(tmp_path):
    path = tmp_path / "replies.jsonl"
    write_records(path, [Reply(prompt_id="c", text="kept")])
    path.write_text(path.read_text() + '{"prompt_id": "a", "te')  # a killed run's last line
    engine, progress = Recording(), RecordedProgress()
    replies = generate_missing(
        engine, PROMPTS, path=path, max_new_tokens=LIMITS, description="mine", display=Display(progress)
    )
    assert [one.text for one in replies] == ["one two three", "one", "kept"]
    assert engine.calls == [(["b"], 1), (["a"], 3)]
    assert progress.tasks == {"mine": [3, 1, 2, 3]}
    assert [one.prompt_id for one in read_records(path, Reply)] == ["c", "b", "a"]
    generate_missing(engine, PROMPTS, path=path, max_new_tokens=LIMITS)
    assert len(engine.calls) == 2


def test_a_reply_that_the_engine_does_not_return_is_an_error_and_the_others_are_kept(tmp_path):
    path = tmp_path / "replies.jsonl"
    with pytest.raises(DataError, match=r"expected a reply to every prompt, 1 are missing \('c' …\)"):
        generate_missing(Recording(lose=("c",)), PROMPTS, path=path, max_new_tokens=LIMITS)
    assert [one.prompt_id for one in read_records(path, Reply)] == ["b", "a"]


def test_replies_to_other_prompts_are_refused(tmp_path):
    path = tmp_path / "replies.jsonl"
    write_records(path, [Reply(prompt_id="z", text="?")])
    with pytest.raises(DataError, match="got prompt id 'z' which no prompt has"):
        generate_missing(ONE_TWO_THREE, PROMPTS, path=path, max_new_tokens=LIMITS)


def test_a_file_with_a_repeated_prompt_id_is_refused_before_a_model_is_loaded(tmp_path):
    write_records(tmp_path / "prompts.jsonl", [PROMPTS[0], PROMPTS[0]])
    with pytest.raises(DataError, match="expected unique ids, got 'a' twice"):
        generate_file(tmp_path / "prompts.jsonl", model=NoModel(), out=tmp_path / "out.jsonl", max_new_tokens=1)


class NoModel:
    """An engine config that cannot be loaded."""


@pytest.mark.parametrize("engine", ["api", "vllm"])
def test_only_the_engine_hf_supports_banned_tokens(engine):
    banned = prompt("ban", decoding=Decoding(banned=("No",)))
    check_decoding(engine, PROMPTS)
    check_decoding("hf", [*PROMPTS, banned])
    with pytest.raises(EngineError, match=f"engine {engine}: cannot ban tokens while decoding, as 'ban' needs"):
        check_decoding(engine, [*PROMPTS, banned])
