from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import RunError
from derta.train import launch as launch_module
from derta.train.launch import OPTIONS, check_config, launch_again, require_single_process, without_options

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
WORDS = st.text("abc-=", min_size=1, max_size=5).filter(lambda word: word.partition("=")[0] not in OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_is_one_that_accelerate_knows_every_key_of(name):
    path = CONFIGS / f"{name}.yaml"
    check_config(path, num_processes=None)
    config = load_config_from_file(str(path))  # refuses unknown keys at the top
    known = {action.dest for action in launch_command_parser()._actions}
    for section in (config.fsdp_config, config.deepspeed_config):
        assert section.keys() <= known
    assert {"ddp": "MULTI_GPU", "cpu": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name] == (
        config.distributed_type.value
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "does not exist"),
        ("distributed_type: FSDP\nnum_procesess: 2\n", "num_procesess"),
        ("distributed_type: SOMETHING\n", "SOMETHING"),
        ("- a list\n", "expected an accelerate config"),
        ("[", "expected an accelerate config"),
        ("distributed_type: MULTI_GPU\nmachine_rank: 0\n", "--num-processes"),
    ],
)
def test_an_invalid_config_is_refused(tmp_path, text, part):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=part):
        check_config(path, num_processes=None)


@given(words=st.lists(WORDS), value=WORDS, place=st.integers(0, 9))
def test_only_the_launchers_options_are_left_out(words, value, place):
    for given_option in ([OPTIONS[0], value], [f"{OPTIONS[1]}={value}"]):
        assert without_options([*words[:place], *given_option, *words[place:]]) == words
    assert without_options(words) == words


def test_a_command_for_one_process_is_refused_in_several(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    require_single_process("run")
    monkeypatch.setenv("WORLD_SIZE", "1")
    require_single_process("run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="run: expected one process, got 2; train with"):
        require_single_process("run")


def test_the_command_is_launched_again_without_the_launchers_options(monkeypatch):
    launched = []
    monkeypatch.setattr(launch_module, "launch", lambda config, **options: launched.append((config, options)))
    monkeypatch.setattr("sys.argv", ["derta", "train", "r.yaml", "--launch", "fsdp2.yaml", "--out", "m"])
    launch_again(Path("fsdp2.yaml"), num_processes=3)
    assert launched == [(Path("fsdp2.yaml"), {"num_processes": 3, "arguments": ["train", "r.yaml", "--out", "m"]})]
