import subprocess
import sys
from hashlib import sha256
from inspect import signature

import pytest
from openai_server import model_answer, serving
from vllm_stand_in import installed

from derta.engines import _SPEED_SETTINGS, ENGINES, check_settings, engine_producer, load_engine
from derta.engines.scripted import ScriptedModel
from derta.errors import EngineError
from derta.provenance import changed_keys, model_hash
from derta.records import Message, Prompt, short_hash
from derta.sampling import Sampling

PROMPTS = [
    Prompt(id="chat", request_id="r", request="?", attack="a", messages=(Message(role="user", content="Tea?"),)),
    Prompt(id="raw", request_id="r", request="?", attack="a", mode="raw", text="Step 1:"),
    Prompt(
        id="prefilled",
        request_id="r",
        request="?",
        attack="a",
        messages=(Message(role="user", content="Tea?"),),
        prefill="Sure,",
    ),
]
CONTINUATIONS = ["Sure, here", "", "boil the water"]


@pytest.fixture(params=[*ENGINES, "scripted"])
def engine(request, tiny_model_dir, monkeypatch):
    if request.param == "scripted":
        yield ScriptedModel(lambda prompt: f"The answer to {prompt.id}.")
        return
    model = str(tiny_model_dir)
    local = load_engine(model)
    with serving(model_answer(local)) as server, installed(local, monkeypatch.setitem):
        settings = {"api": {"endpoints": server.url, "tokenizer": model}}.get(request.param, {})
        yield load_engine(model, engine=request.param, **settings)


def test_every_prompt_has_exactly_one_reply_of_at_most_max_new_tokens(engine):
    results = list(engine.generate(PROMPTS, max_new_tokens=3))
    assert sorted(reply.prompt_id for reply in results) == sorted(prompt.id for prompt in PROMPTS)
    for reply in results:
        assert len(reply.token_ids) == len(reply.token_starts) <= 3
        assert reply.stop_reason in ("eos", "length")


def test_the_same_prompts_have_the_same_replies(engine):
    first, second = (
        sorted(engine.generate(PROMPTS, max_new_tokens=3), key=lambda reply: reply.prompt_id) for _ in "ab"
    )
    assert first == second


def by_key(results):
    return {reply.key: reply for reply in results}


def test_samples_have_their_numbers_and_seeds_and_are_the_same_in_any_batch(engine):
    sampling = Sampling(temperature=1.5, top_p=0.9, num_samples=4, seed=3)
    together = by_key(engine.generate(PROMPTS, max_new_tokens=3, sampling=sampling))
    assert together.keys() == {(prompt.id, number) for prompt in PROMPTS for number in range(4)}
    assert all(reply.seed == sampling.reply_seed(*key) for key, reply in together.items())
    some = by_key(engine.generate(PROMPTS[1:], max_new_tokens=3, sampling=sampling.only((3, 1))))
    assert some == {key: together[key] for key in some}
    assert len(some) == 4


def test_engines_draw_the_samples_of_the_local_engine_from_the_same_seeds(engine, tiny_model_dir):
    if isinstance(engine, ScriptedModel):
        return
    sampling = Sampling(temperature=1.5, top_p=0.9, num_samples=3)
    expected = by_key(load_engine(tiny_model_dir).generate(PROMPTS, max_new_tokens=4, sampling=sampling))
    assert by_key(engine.generate(PROMPTS, max_new_tokens=4, sampling=sampling)) == expected
    assert len({reply.text for reply in expected.values()}) > 3


def test_each_token_has_a_log_probability_and_there_is_one_more_refusal_probability(engine):
    log_probs = engine.log_likelihood(PROMPTS, CONTINUATIONS)
    refusals = engine.refusal_probability(PROMPTS, CONTINUATIONS)
    assert [len(values) + 1 for values in log_probs] == [len(values) for values in refusals]
    assert all(value <= 0 for values in log_probs for value in values)
    assert all(0 <= value <= 1 for values in refusals for value in values)
    assert log_probs[1] == []


def test_an_engine_is_loaded_by_name_with_settings(tiny_model_dir):
    engine = load_engine("m", engine="api", tokenizer=str(tiny_model_dir), body={"top_k": 1}, concurrency=3)
    assert (engine.send, engine.body, engine.limits.concurrency) == ("ids", {"top_k": 1}, 3)
    with pytest.raises(EngineError, match="setting concurrency"):
        load_engine("m", engine="api", concurrency="a lot")


def test_settings_are_converted_to_the_loaders_types_and_nothing_is_loaded():
    settings = check_settings("hf", {"max_batch_tokens": "9", "template_kwargs": {"enable_thinking": False}})
    assert settings == {"max_batch_tokens": 9, "template_kwargs": {"enable_thinking": False}}
    assert check_settings("hf", {"tokenizer": "no/such/folder"}) == {"tokenizer": "no/such/folder"}


@pytest.mark.parametrize(
    ("engine", "settings", "part"),
    [
        ("hff", {}, "unknown engine 'hff'; did you mean 'hf'"),
        ("hf", {"max_batch_token": 1}, "engine hf: unknown setting 'max_batch_token'; did you mean 'max_batch_tokens'"),
        ("api", {"model": "m"}, "engine api: unknown setting 'model'"),
        ("vllm", {"tensor_parallel_size": "two"}, "engine vllm: setting tensor_parallel_size"),
    ],
)
def test_unknown_engines_and_invalid_settings_are_errors(engine, settings, part):
    with pytest.raises(EngineError) as error:
        check_settings(engine, settings)
    assert part in str(error.value)


def test_importing_the_engines_does_not_import_torch():
    code = "import sys, derta.engines, derta.engines.scripted; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own line


def test_the_provenance_of_output_is_the_model_and_what_changes_its_text(tmp_path, tiny_model_dir):
    plain = engine_producer(tiny_model_dir, engine="hf", settings={})
    assert plain == {"engine": "hf", "model": model_hash(tiny_model_dir)}
    same = {"device": "cpu", "max_batch_tokens": 5, "threads": 2, "template": "auto", "adapter": None, "dtype": "auto"}
    assert engine_producer(tiny_model_dir, engine="hf", settings=same) == plain
    template = tmp_path / "chat.jinja"
    template.write_text("one")
    first, second = (
        {"template": str(template), "dtype": "float32", "template_kwargs": {"thinking": False}},
        {"template": str(template), "dtype": "bfloat16", "template_kwargs": {"thinking": True}},
    )
    before = engine_producer(tiny_model_dir, engine="hf", settings=first)
    template.write_text("two")
    assert set(changed_keys(before, engine_producer(tiny_model_dir, engine="hf", settings=second))) == {
        f"template ({hash_file_text('one')} before, {hash_file_text('two')} now)",
        "dtype (float32 before, bfloat16 now)",
        'template_kwargs ({"thinking": false} before, {"thinking": true} now)',
    }


def hash_file_text(text):
    """Hash of a template's text as a producer has it."""
    return short_hash(sha256(text.encode()).hexdigest())


def test_a_served_model_counts_by_name_and_its_servers_do_not():
    settings = {"endpoints": "http://127.0.0.1:1/v1", "concurrency": 2, "timeout": 3.0, "send": "ids"}
    assert engine_producer("m", engine="api", settings=settings) == {"engine": "api", "model": "m", "send": "ids"}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_setting_of_an_engine_is_known_to_change_its_output_or_not(engine):
    changes_output = {"adapter", "body", "dtype", "send", "settings", "template", "template_kwargs", "tokenizer"}
    changes_output |= {"template_date", "thinking", "refusal_threshold"}
    settings = set(list(signature(ENGINES[engine]()).parameters)[1:])
    assert settings - changes_output <= _SPEED_SETTINGS
