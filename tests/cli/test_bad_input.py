"""A user error is one line on standard error with exit code 2, and leaves no files behind."""

import pytest
import yaml


def check_error(called, *parts):
    """Check that standard error ends with one line of derta, and that it contains all the parts."""
    assert called.code == 2, called.err
    messages = [line for line in called.err.splitlines() if line.startswith("derta")]
    assert len(messages) == 1, called.err
    assert called.err.endswith(messages[0] + "\n")
    assert "Traceback" not in called.err
    for part in parts:
        assert part in messages[0]


@pytest.fixture
def broken(recipe, tmp_path, derta):
    """Return a function that runs the small recipe with bad settings and checks the error and that no folder exists."""

    def run(*settings, parts):
        words = [word for setting in settings for word in ("--set", setting)]
        check_error(derta("run", recipe, "--out", tmp_path / "run", *words), *parts)
        assert not (tmp_path / "run").exists()

    return run


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("train.leaning_rate=1", ["`train.leaning_rate`", "did you mean 'learning_rate'?"]),
        ("train.num_train_epochs=-1", ["`train.num_train_epochs`", "got -1"]),
        ("data.num_triples=100", ["expected 200 triples", "only 6 are available"]),
        ("data.held_out_requests=100", ["100", "8"]),
        ("model.refusal_words=[]", ["`model.refusal_words`", "at least 1 item"]),
        ("model.path=nowhere/at/all", ["nowhere/at/all", "model folder"]),
        ("model.template=missing.jinja", ["template", "missing.jinja"]),
        ("methods=[vanilla, dreta]", ["methods", "'dreta'", "derta"]),
        ("methods=[]", ["methods", "got []"]),
        ("seeds=[1, 1]", ["seeds", "[1, 1]"]),
        ("seeds=[]", ["seeds", "got []"]),
        ("train=[", ["--set", "'['"]),
        ("train", ["--set", "KEY=VALUE", "'train'"]),
        ("title.text=x", ["`title.text`", "expected a mapping"]),
    ],
)
def test_a_wrong_setting_is_an_error(setting, parts, broken):
    broken(setting, parts=parts)


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"attack": "drect"}, ["attack", "'drect'", "did you mean 'direct'?"]),
        ({"judges": ["refuse"]}, ["judge", "'refuse'", "refusal"]),
        ({"attack": "prefill", "options": {"depth": ["5%"]}}, ["unknown option 'depth'", "depths"]),
        ({"requests": {"path": "gone.jsonl"}}, ["gone.jsonl", "check the path"]),
        ({"attack": "prefill"}, ["prefill", "harmful"]),
        ({"suite": "over_refusal"}, ["over_refusal", "`name`"]),
        ({"attack": "self_cipher", "options": {"demonstrations": "x" * 300}}, ["File name too long"]),
    ],
)
def test_a_wrong_evaluation_is_an_error(section, parts, recipe, broken):
    values = yaml.safe_load(recipe.read_text())
    values["evaluate"] = [{**values["evaluate"][0], **section}]
    recipe.write_text(yaml.safe_dump(values))
    broken(parts=parts)


def test_two_evaluations_with_the_same_name_are_refused(recipe, tmp_path, broken):
    # their limits and judges would be mixed up
    values = yaml.safe_load(recipe.read_text())
    first, other = values["evaluate"][0], {"requests": {"path": str(tmp_path / "benign.jsonl")}, "max_new_tokens": 3}
    values["evaluate"] = [first, other]
    recipe.write_text(yaml.safe_dump(values))
    broken(parts=["two sections", "attack direct", "`name`"])


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("triples.jsonl", b'{"query": "Why?", "safe": "Sor', [":9", "not JSON"]),
        ("triples.jsonl", b'{"query": "Why?", "safe": "Sorry."}\n', [":9", "harmful"]),
        ("triples.jsonl", b'{"query": " ", "safe": "Sorry.", "harmful": "Sure."}\n', [":9", "query"]),
        ("triples.jsonl", b'{"query": "\xff"}\n', [":9", "UTF-8", "0xff"]),
        ("asked.jsonl", b'{"id": "q1", "text": "Again?"}\n', [":4", "'q1'", "asked.jsonl:2"]),
        ("asked.jsonl", b'{"id": "q7", "text": ""}\n', [":4", "text"]),
        ("helpful.jsonl", b'{"instruction": "Why?"}\n', [":13"]),
    ],
)
def test_the_error_of_a_bad_line_names_the_file_and_line_number(name, content, parts, tmp_path, broken):
    with (tmp_path / name).open("ab") as file:
        file.write(content)
    broken(parts=[str(tmp_path / name), *parts])


@pytest.mark.parametrize(
    ("settings", "part"),
    [({"chat_template": None}, "`template: paper`"), ({"eos": False}, "EOS")],
)
def test_a_tokenizer_without_a_template_or_eos_is_an_error(settings, part, make_model_dir, broken):
    broken(f"model.path={make_model_dir(tokenizer=settings)}", parts=[part])


def test_a_folder_without_a_model_is_an_error(tmp_path, broken):
    broken(f"model.path={tmp_path}", parts=[str(tmp_path), "config.json"])


def test_after_an_error_the_fixed_recipe_may_use_the_same_folder(recipe, tmp_path, derta):
    called = derta("run", recipe, "--out", tmp_path / "run", "--set", "data.num_triples=100")
    check_error(called)
    called = derta("run", recipe, "--out", tmp_path / "run", "--set", "methods=[vanilla]", "--set", "evaluate=[]")
    assert called.code == 0, called.err


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["cannot read the recipe"]),
        (b"title: [", ["expected YAML"]),
        (b"\xff\xfe", ["cannot read the recipe"]),
        (b"", ["expected a mapping"]),
        (b"title: x\n", ["`model`"]),
    ],
)
def test_a_file_that_is_not_a_recipe_is_an_error(content, parts, tmp_path, derta):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    check_error(derta("run", path, "--out", tmp_path / "run"), str(path), *parts)


def test_control_characters_of_a_recipe_are_escaped_in_the_message(recipe, tmp_path, derta, broken):
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"model": {"path": "a\x1b[2Jb"}}))
    broken(parts=["a⟨U+001B⟩[2Jb"])


def test_a_run_is_not_written_into_a_folder_of_other_files(recipe, tmp_path, derta):
    check_error(derta("run", recipe, "--out", tmp_path), str(tmp_path), "files without a manifest")


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run"],
        ["demo", "--seeds", "0"],
        ["demo", "--first-seed", "-1"],
        ["run", "x", "--out", "y", "--nonsense"],
        ["generate", "p.jsonl"],
    ],
)
def test_wrong_usage_exits_with_2_and_no_traceback(words, derta):
    called = derta(*words)
    assert called.code == 2
    check_error(called, "--help`")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "ablations"], "did you mean 'ablation'"),
        (["--rotation", "2"], "expected 0 or 1, got 2"),
        (["--without", "poison, cursed"], "did you mean 'curse'"),
        (["--study", "drift", "--methods", "vanila_epochs_2"], "did you mean 'vanilla_epochs_2'"),
    ],
)
def test_a_wrong_name_in_an_option_of_the_demo_is_an_error_before_anything_is_written(words, message, tmp_path, derta):
    check_error(derta("demo", "--out", tmp_path / "demo", *words), message)
    assert not (tmp_path / "demo").exists()


def test_a_report_of_a_folder_without_a_run_is_an_error(tmp_path, derta):
    check_error(derta("report", tmp_path), "expected a run's folder with a run.json")
    for content in ("{", "[]", '{"title": "x"}'):
        (tmp_path / "run.json").write_text(content)
        check_error(derta("report", tmp_path), "run.json")


def test_replies_cannot_be_written_into_a_folder(finished, tmp_path, tiny_model_dir, derta):
    words = ["generate", finished.folder / "prompts.jsonl", "--model", tiny_model_dir, "--out", tmp_path]
    check_error(derta(*words), str(tmp_path))


def test_replies_to_other_prompts_are_an_error(finished, tmp_path, tiny_model_dir, derta):
    out = tmp_path / "replies.jsonl"
    out.write_text('{"prompt_id": "stranger", "text": "Hello."}\n')
    words = ["generate", finished.folder / "prompts.jsonl", "--model", tiny_model_dir, "--out", out]
    check_error(derta(*words), "cannot resume from 'stranger': no prompt has this id")
