import fcntl
import logging
import os
import subprocess
import sys
from errno import ENOLCK

import pytest

from derta.errors import RunError
from derta.files import write_text
from derta.locks import check_output, lock

HOLD = """
import signal, sys
from pathlib import Path
from derta.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_process_is_refused_and_a_kill_releases_the_lock(tmp_path):
    path = tmp_path / "replies.jsonl"
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own program
        assert process.stdout.readline() == b"held\n"
        refused = pytest.raises(RunError, match=r"replies.jsonl: another process writes this file; wait for it or")
        with refused, lock(path):
            pass
        process.kill()
    with lock(path):
        assert [file.name for file in tmp_path.iterdir()] == ["replies.jsonl"]


def test_a_failed_block_leaves_no_empty_file_and_keeps_one_that_was_there(tmp_path):
    kept = tmp_path / "kept"
    kept.touch()
    for path in (kept, tmp_path / "new"):
        with pytest.raises(KeyError), lock(path):
            raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    with lock(tmp_path / "new"):
        pass
    assert (tmp_path / "new").read_text() == ""


def test_a_file_that_was_replaced_inside_the_block_is_kept(tmp_path):
    path = tmp_path / "deep" / "verdicts.jsonl"
    with lock(path):
        write_text(path, "{}\n")
    assert path.read_text() == "{}\n"
    with lock(path):
        pass


def test_a_lock_follows_the_path_and_not_the_file_that_was_replaced(tmp_path):
    path = tmp_path / "replies.jsonl"
    with lock(path):
        write_text(path, "new\n")
        with lock(path):  # the new file is free: the old one is no longer under this path
            assert path.read_text() == "new\n"


def test_a_folder_in_the_place_of_the_file_is_one_clear_line(tmp_path):
    with pytest.raises(RunError, match="cannot open it"), lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_logged_and_not_silent(tmp_path, monkeypatch, caplog):
    def unsupported(descriptor, operation):
        raise OSError(ENOLCK, os.strerror(ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), lock(tmp_path / "replies.jsonl"):
        pass
    assert "supports no locks" in caplog.text


def test_an_output_that_is_an_input_is_refused_through_links_too(tmp_path):
    replies = tmp_path / "replies.jsonl"
    replies.write_text("{}\n")
    (tmp_path / "symbolic").symlink_to(replies)
    (tmp_path / "hard").hardlink_to(replies)
    for out in (replies, tmp_path / "x" / ".." / "replies.jsonl", tmp_path / "symbolic", tmp_path / "hard"):
        with pytest.raises(RunError, match="is an input too, and would be overwritten; choose another output"):
            check_output(out, [None, replies])
    check_output(tmp_path / "verdicts.jsonl", [replies, None])
    check_output(None, [replies])
