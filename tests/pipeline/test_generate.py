import pytest

from derta.config import EngineConfig
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, EngineError, RunError
from derta.files import read_records, write_records
from derta.locks import lock
from derta.pipeline.generate import check_decoding, expected_replies, generate_file, generate_missing
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
PRODUCER = {"engine": "hf", "model": "0f"}
EXPECTED = expected_replies(PROMPTS, producer=PRODUCER, max_new_tokens=LIMITS)
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
    replies = generate_missing(lambda: engine, PROMPTS, path=tmp_path / "replies.jsonl", expected=EXPECTED)
    assert [(one.prompt_id, one.text) for one in replies] == [
        ("a", "one two three"),
        ("b", "one"),
        ("c", "one two three"),
    ]
    assert engine.calls == [(["b"], 1), (["a", "c"], 3)]


def test_only_missing_replies_are_generated_and_progress_starts_with_the_existing_ones(tmp_path):
    path = tmp_path / "replies.jsonl"
    write_records(path, [EXPECTED["c", 0].stamp(Reply(prompt_id="c", text="kept"))])
    path.write_text(path.read_text() + '{"prompt_id": "a", "te')  # a killed run's last line
    engine, progress = Recording(), RecordedProgress()
    replies = generate_missing(
        lambda: engine, PROMPTS, path=path, expected=EXPECTED, description="mine", display=Display(progress)
    )
    assert [one.text for one in replies] == ["one two three", "one", "kept"]
    assert engine.calls == [(["b"], 1), (["a"], 3)]
    assert progress.tasks == {"mine": [3, 1, 2, 3]}
    assert [one.prompt_id for one in read_records(path, Reply)] == ["c", "b", "a"]
    generate_missing(no_model, PROMPTS, path=path, expected=EXPECTED)
    assert len(engine.calls) == 2


def test_a_reply_that_the_engine_does_not_return_is_an_error_and_the_others_are_kept(tmp_path):
    path = tmp_path / "replies.jsonl"
    with pytest.raises(DataError, match=r"expected a reply to every prompt, 1 are missing \('c' …\)"):
        generate_missing(lambda: Recording(lose=("c",)), PROMPTS, path=path, expected=EXPECTED)
    assert [one.prompt_id for one in read_records(path, Reply)] == ["b", "a"]


def no_model():
    raise AssertionError("no model is needed")


def expected(**change):
    """Expected provenance, after a change of the producer."""
    return expected_replies(PROMPTS, producer=PRODUCER | change, max_new_tokens=LIMITS)


OTHER_PROMPT = PROMPTS[0].model_copy(update={"messages": (Message(role="user", content="Where?"),)})


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([Reply(prompt_id="z", text="?")], "cannot resume from 'z': no prompt has this id; choose another --out"),
        ([Reply(prompt_id="a", text="?")], "'a': it has another producer: no producer is recorded; choose another"),
        (
            [expected(model="1e")["a", 0].stamp(Reply(prompt_id="a", text="?"))],
            r"'a': it has another producer: model \(1e before, 0f now\); choose another --out",
        ),
        (
            [expected(template="9d")["a", 0].stamp(Reply(prompt_id="a", text="?"))],
            r"'a': it has another producer: template \(9d before, none now\)",
        ),
        (
            [EXPECTED["b", 0].stamp(Reply(prompt_id="a", text="?"))],
            r"'a': it has another producer: max_new_tokens \(1 before, 3 now\)",
        ),
        (
            [
                expected_replies([OTHER_PROMPT], producer=PRODUCER, max_new_tokens=LIMITS)["a", 0].stamp(
                    Reply(prompt_id="a", text="?")
                )
            ],
            "'a': its input has changed since",
        ),
        ([EXPECTED["a", 0].stamp(Reply(prompt_id="a", text="?"))] * 2, "'a': it is there twice"),
    ],
)
def test_replies_of_another_origin_are_refused_and_stay_as_they_are(held, message, tmp_path):
    path = tmp_path / "replies.jsonl"
    write_records(path, held)
    before = path.read_bytes()
    with pytest.raises(RunError, match=message):
        generate_missing(no_model, PROMPTS, path=path, expected=EXPECTED)
    assert path.read_bytes() == before


def test_a_second_process_cannot_write_the_same_replies(tmp_path):
    with lock(tmp_path / "replies.jsonl"), pytest.raises(RunError, match="another process writes this file"):
        generate_missing(no_model, PROMPTS, path=tmp_path / "replies.jsonl", expected=EXPECTED)


def test_replies_cannot_be_written_over_their_prompts(tmp_path):
    write_records(tmp_path / "prompts.jsonl", PROMPTS)
    before = (tmp_path / "prompts.jsonl").read_bytes()
    model = EngineConfig(model="org/name")
    with pytest.raises(RunError, match="is an input too"):
        generate_file(tmp_path / "prompts.jsonl", model=model, out=tmp_path / "prompts.jsonl", max_new_tokens=1)
    assert (tmp_path / "prompts.jsonl").read_bytes() == before


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
