import pytest

from derta.provenance import case_hash, changed_keys, file_hashes, flat, hash_file, model_files, model_hash, prompt_hash
from derta.records import Decoding, Message, Prompt, Reply

PROMPT = Prompt(id="direct:1", request_id="1", attack="direct", messages=(Message(role="user", content="Bread?"),))


def test_a_file_is_hashed_by_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert hash_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")
    assert file_hashes([tmp_path / "empty", tmp_path / "missing"]) == {
        str(tmp_path / "empty"): hash_file(tmp_path / "empty")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message(role="user", content="Soup?"),)},
        {"messages": (Message(role="system", content="Bread?"),)},
        {"prefill": "Take"},
        {"decoding": Decoding(banned=("Sorry",))},
        {"mode": "raw", "text": "Bread?", "messages": None},
    ],
)
def test_whatever_the_model_reads_changes_the_hash_of_a_prompt(change):
    assert prompt_hash(Prompt.model_validate({**PROMPT.model_dump(), **change})) != prompt_hash(PROMPT)


def test_labels_that_the_model_does_not_read_leave_the_hash_of_a_prompt():
    other = PROMPT.model_copy(update={"id": "x", "category": "food", "dataset": "d", "answer": "4"})
    assert prompt_hash(other) == prompt_hash(PROMPT)


def test_reply_text_and_references_change_the_hash_of_a_case_and_ids_do_not():
    reply = Reply(prompt_id="direct:1", text="Mix.")
    base = case_hash(PROMPT, reply)
    assert case_hash(PROMPT.model_copy(update={"id": "x"}), reply.model_copy(update={"prompt_id": "x"})) == base
    assert case_hash(PROMPT, reply.model_copy(update={"text": "Knead."})) != base
    assert case_hash(PROMPT, reply.model_copy(update={"stop_reason": "length"})) != base
    assert case_hash(PROMPT.model_copy(update={"answer": "4"}), reply) != base
    assert case_hash(PROMPT.model_copy(update={"request": "Soup?"}), reply) != base


def test_a_model_is_known_by_the_content_of_its_files(tmp_path):
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_text(name)
    before = model_hash(tmp_path)
    for irrelevant in ("README.md", "train_log.json", "optimizer.pt"):
        (tmp_path / irrelevant).write_text("x")
    assert model_hash(tmp_path) == before
    assert [file.name for file in model_files(tmp_path)] == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    for name in ("model.safetensors", "chat_template.jinja"):
        (tmp_path / name).write_text("changed")
        assert model_hash(tmp_path) != before
        before = model_hash(tmp_path)


def test_a_hub_id_without_a_cached_snapshot_counts_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert model_hash("org/name") == "org/name"
    assert model_hash("served-name") == "served-name"


def test_settings_become_short_texts_and_unset_ones_are_left_out():
    settings = flat({"a": None, "b": "x" * 100, "c": {"k": [1]}, "d": True})
    assert settings.keys() == {"b", "c", "d"}
    assert len(settings["b"]) == 16
    assert (settings["c"], settings["d"]) == ('{"k": [1]}', "true")


def test_what_differs_between_producers_is_named_on_both_sides():
    assert changed_keys({"model": "a", "dtype": "float32"}, {"model": "a"}) == ["dtype (float32 before, none now)"]
