import errno
from pathlib import Path

import pytest

from derta import provenance
from derta.errors import ModelError
from derta.loading import hub_source
from derta.provenance import (
    case_hash,
    changed_keys,
    file_hashes,
    flat,
    hash_file,
    hash_value,
    model_files,
    model_hash,
    prompt_hash,
    split_revision,
)
from derta.records import Cost, Decoding, Message, Prompt, Reply, short_hash

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


def test_the_text_of_a_raw_prompt_changes_its_hash():
    raw = Prompt(id="1", request_id="1", attack="completing", mode="raw", text="Bread is")
    assert prompt_hash(raw.model_copy(update={"text": "Soup is"})) != prompt_hash(raw)


def test_labels_that_the_model_does_not_read_leave_the_hash_of_a_prompt():
    other = PROMPT.model_copy(update={"id": "x", "category": "food", "dataset": "d", "answer": "4"})
    assert prompt_hash(other) == prompt_hash(PROMPT)


def test_reply_text_and_references_change_the_hash_of_a_case_and_ids_do_not():
    reply = Reply(prompt_id="direct:1", text="Mix.")
    base = case_hash(PROMPT, reply)
    assert case_hash(PROMPT.model_copy(update={"id": "x"}), reply.model_copy(update={"prompt_id": "x"})) == base
    assert case_hash(PROMPT.model_copy(update={"cost": Cost(target_queries=3)}), reply) == base
    assert case_hash(PROMPT, reply.model_copy(update={"unanswered": "filtered"})) != base
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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert model_hash("org/name") == "org/name"
    assert model_hash("served-name") == "served-name"


def test_settings_become_short_texts_and_unset_ones_are_left_out():
    settings = flat({"a": None, "b": "x" * 100, "c": {"k": [1]}, "d": True})
    assert settings.keys() == {"b", "c", "d"}
    assert len(settings["b"]) == 16
    assert (settings["c"], settings["d"]) == ('{"k": [1]}', "true")


def test_what_differs_between_producers_is_named_on_both_sides():
    assert changed_keys({"model": "a", "dtype": "float32"}, {"model": "a"}) == ["dtype (float32 before, none now)"]


@pytest.mark.parametrize("name", ["a.safetensors", "a.json", "a.jinja", "tokenizer.model", "merges.txt"])
def test_every_file_that_a_model_is_loaded_from_counts(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    before = model_hash(tmp_path)
    (tmp_path / name).write_text("x")
    assert model_hash(tmp_path) != before


@pytest.mark.parametrize("name", ["train_log.json", "training_args.json", "trainer_state.json", "a.bin", "folder.json"])
def test_no_log_and_no_folder_counts(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    before = model_hash(tmp_path)
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("x")
    assert model_hash(tmp_path) == before


def test_the_names_of_a_models_files_count(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = model_hash(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "configuration.json")
    assert model_hash(tmp_path) != before


def test_a_model_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def broken(path):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(provenance, "hash_file", broken)
    with pytest.raises(ModelError, match=r"cannot read it \(Input/output error\); check the folder"):
        model_hash(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_hub_id_counts_with_the_commit_of_its_cached_snapshot(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home, commit = tmp_path / "models--org--name", "0123456789abcdef0123456789abcdef01234567"
    missing = "adapter_config.json" if name == "config.json" else "config.json"
    for path, text in (
        (home / "refs" / "main", commit),
        (home / "snapshots" / commit / name, "{}"),
        (home / ".no_exist" / commit / missing, ""),  # a file that the hub is known not to have
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert model_hash("org/name") == f"org/name@{commit}"
    assert model_hash("org/other") == "org/other"


def test_the_name_of_a_served_model_may_have_any_number_of_parts():
    assert model_hash("accounts/fireworks/models/llama") == "accounts/fireworks/models/llama"


def test_settings_are_compared_by_value_up_to_60_characters_and_by_hash_above():
    assert flat({"a": {"x": 1, "y": 2}}) == flat({"a": {"y": 2, "x": 1}}) == {"a": '{"x": 1, "y": 2}'}
    assert flat({"a": Path("folder"), "b": "x" * 60}) == {"a": '"folder"', "b": "x" * 60}
    assert flat({"b": "x" * 61})["b"] == short_hash("x" * 61)
    assert hash_value({"a": Path("folder")}) == hash_value({"a": "folder"})


def test_differences_are_named_in_order_with_none_for_what_is_missing():
    old, new = {"z": "1", "model": "a", "b": "2"}, {"model": "b", "b": "2", "a": "3", "c": "4"}
    assert changed_keys(old, new) == [
        "a (none before, 3 now)",
        "c (none before, 4 now)",
        "model (a before, b now)",
        "z (1 before, none now)",
    ]


def test_hashes_of_files_are_in_the_order_of_their_paths(tmp_path):
    paths = [tmp_path / f"{i}.jsonl" for i in range(9)]
    for path in paths:
        path.write_text(path.name)
    assert [*file_hashes([*paths[::-1], paths[0]])] == [*map(str, paths)]


def test_a_revision_is_part_of_a_hub_id_and_its_commit_is_that_of_its_own_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home, main, tagged = tmp_path / "models--org--name", "0" * 40, "1" * 40
    for path, text in (
        (home / "refs" / "main", main),
        (home / "refs" / "v1", tagged),
        (home / "snapshots" / main / "config.json", "{}"),
        (home / "snapshots" / tagged / "config.json", "{}"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert model_hash("org/name") == f"org/name@{main}"
    assert model_hash("org/name@v1") == f"org/name@{tagged}"
    assert model_hash(f"org/name@{tagged}") == f"org/name@{tagged}"
    assert hub_source("org/name@v1") == ("org/name", {"revision": tagged})
    assert hub_source("org/name@v2") == ("org/name", {"revision": "v2"})  # not fetched yet: the loader fetches it
    assert hub_source(str(tmp_path)) == (str(tmp_path), {})


def test_a_folder_with_an_at_sign_in_its_name_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "name@v1").mkdir()
    assert split_revision("models/name@v1") == ("models/name@v1", None)
