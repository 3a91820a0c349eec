import pytest
import yaml

from derta.config import load_recipe
from derta.errors import DataError, RecipeError
from derta.files import write_records
from derta.pipeline.data import evaluated_requests, input_files
from derta.pipeline.evaluate import craft_prompts, is_complete, judges_of, token_limits
from derta.records import Message, Prompt, Reply


def ready(name, **fields):
    return Prompt(
        id=name,
        request_id=name,
        request=f"What is {name}?",
        **{"attack": "by hand", "messages": (Message(role="user", content=f"Tell me: {name}"),), **fields},
    )


PROMPTS = [
    ready("tea"),
    ready("salt", attack="prefill", variant="9%", prefill="It is", suite="over_refusal", dataset="d"),
]


@pytest.fixture
def with_prompts(recipe, tmp_path):
    """Give the small recipe a section of ready prompts; `section` replaces its keys."""

    def write(*prompts, **section):
        path = tmp_path / "prompts.jsonl"
        write_records(path, prompts)
        values = yaml.safe_load(recipe.read_text())
        values["evaluate"].append({"prompts": str(path), **section})
        recipe.write_text(yaml.safe_dump(values))
        return load_recipe(recipe)

    return write


def test_a_file_of_prompts_is_used_unchanged(with_prompts, tmp_path):
    loaded = with_prompts(*PROMPTS, judges=["harm"], max_new_tokens=9)
    crafted = craft_prompts(loaded, held_out=[], seed=0)
    assert crafted[-2:] == PROMPTS
    judges = {section.key: section.judge_names for section in loaded.evaluate}
    assert [judges_of(prompt, judges) for prompt in crafted[-2:]] == [("harm",)] * 2
    assert token_limits(loaded, crafted)["tea"] == 9
    assert judges_of(crafted[0], judges) == loaded.evaluate[0].judge_names == ("refusal", "harm")
    assert token_limits(loaded, crafted)[crafted[0].id] == 6
    assert tmp_path / "prompts.jsonl" in input_files(loaded)


def test_what_the_prompts_request_must_not_be_trained_on(with_prompts):
    assert {"What is tea?", "What is salt?"} <= set(evaluated_requests(with_prompts(*PROMPTS)))


def test_a_name_counts_a_file_of_prompts_in_a_suite_of_its_own(with_prompts):
    loaded = with_prompts(ready("tea", attack="direct"), suite="over_refusal", name="mine")
    [prompt] = craft_prompts(loaded, held_out=[], seed=0)[-1:]
    assert (prompt.id, prompt.suite, prompt.dataset, prompt.attack) == ("mine/tea", "over_refusal", "mine", "direct")
    assert judges_of(prompt, {loaded.evaluate[-1].key: ("harm",)}) == ("harm",)


def test_a_prompt_that_reads_as_another_evaluations_is_refused(with_prompts):
    loaded = with_prompts(ready("tea", attack="direct"))
    with pytest.raises(RecipeError, match=r"prompt 'tea' \(direct\) matches another evaluation; .*`name`"):
        craft_prompts(loaded, held_out=[], seed=0)


def test_a_malformed_prompt_is_one_line(with_prompts, tmp_path):
    loaded = with_prompts(*PROMPTS)
    (tmp_path / "prompts.jsonl").write_text('{"id": "tea"}\n')
    with pytest.raises(DataError, match=r"prompts\.jsonl:1: not a prompt"):
        craft_prompts(loaded, held_out=[], seed=0)


def reply(name, **fields):
    return Reply(prompt_id=name, text="No.", **fields)


@pytest.mark.parametrize(
    ("replies", "complete"),
    [
        ([], False),
        ([reply("tea")], False),
        ([reply("salt")], False),
        ([reply("tea"), reply("tea", sample=1)], False),
        ([reply("tea"), reply("salt"), reply("milk")], False),  # the replies of other prompts
        ([reply("salt"), reply("tea")], True),
    ],
)
def test_a_model_is_complete_with_its_scores_and_a_reply_to_each_of_its_prompts(tmp_path, replies, complete):
    assert not is_complete(tmp_path, PROMPTS)
    write_records(tmp_path / "replies.jsonl", replies)
    assert not is_complete(tmp_path, PROMPTS)
    (tmp_path / "scores.json").write_text("{}")
    assert is_complete(tmp_path, PROMPTS) is complete


def test_a_torn_last_reply_is_missing(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    write_records(tmp_path / "replies.jsonl", [reply("tea"), reply("salt")])
    assert is_complete(tmp_path, PROMPTS)
    whole = (tmp_path / "replies.jsonl").read_bytes()
    (tmp_path / "replies.jsonl").write_bytes(whole[:-1])
    assert not is_complete(tmp_path, PROMPTS)
    assert (tmp_path / "replies.jsonl").read_bytes() == whole[:-1]  # another process may be writing it


def test_a_searched_model_is_complete_with_replies_to_the_prompts_of_its_own_folder(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    write_records(tmp_path / "prompts.jsonl", [*PROMPTS, ready("milk")])
    write_records(tmp_path / "replies.jsonl", [reply("tea"), reply("salt")])
    assert not is_complete(tmp_path, PROMPTS)
    write_records(tmp_path / "replies.jsonl", [reply("tea"), reply("salt"), reply("milk")])
    assert is_complete(tmp_path, PROMPTS)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"attack": "prefill"}, "needs no `attack`"),
        ({"requests": "held_out"}, "expected `requests` or a file of `prompts`, and not both"),
        ({"prompts": None}, "expected `requests` or a file of `prompts`, and not both"),
    ],
)
def test_prompts_stand_in_for_requests_and_an_attack(with_prompts, section, message):
    with pytest.raises(RecipeError, match=message):
        with_prompts(*PROMPTS, **section)


def test_attacks_on_refusals_attack_all_refusal_words_of_the_recipe(recipe):
    values = yaml.safe_load(recipe.read_text())
    requests = {"requests": values["evaluate"][0]["requests"]}
    values["evaluate"] = [{"attack": "refusal_ban", **requests}, {"attack": "past_the_refusal", **requests}]
    values["model"]["refusal_words"] = ["No", "Sorry"]
    recipe.write_text(yaml.safe_dump(values))
    prompts = craft_prompts(load_recipe(recipe), held_out=[], seed=0)
    assert {prompt.decoding.banned for prompt in prompts if prompt.decoding} == {("No", "no", "Sorry", "sorry")}
    assert all(prompt.prefill.startswith("No, I can't") for prompt in prompts if prompt.prefill)
