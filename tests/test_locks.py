import fcntl
import logging
import os
import subprocess
import sys
from errno import EIO, ENOLCK
from pathlib import Path

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


@pytest.mark.parametrize("replaced", [True, False])
def test_a_failed_block_loses_nothing_that_was_written(tmp_path, replaced):
    path = tmp_path / "new"

    def work():
        with lock(path):
            if replaced:
                write_text(path, "{}\n")
            else:
                path.write_text("{}\n")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert path.read_text() == "{}\n"


def open_files():
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the names of open files")
def test_a_lock_is_free_after_its_block_and_leaves_no_file_open(tmp_path):
    path = tmp_path / "a" / "b" / "replies.jsonl"
    before = open_files()
    for _ in range(3):
        with lock(path):
            with pytest.raises(RunError, match="another process writes this file"), lock(path):
                pass
            assert open_files() == before + 1
    assert open_files() == before
    assert not path.stat().st_mode & 0o111  # a file of data is no program


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the names of open files")
@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_file_that_is_replaced_or_removed_before_it_is_locked_is_opened_again(tmp_path, monkeypatch, change):
    path, stock, calls = tmp_path / "replies.jsonl", fcntl.flock, []

    def flock(descriptor, operation):
        if not calls:  # another process finishes with the file between its opening and its locking
            if change == "replaced":
                write_text(path, "new\n")
            else:
                path.unlink()
        calls.append(descriptor)
        stock(descriptor, operation)

    path.touch()
    before = open_files()
    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(path):
        assert len(calls) == 2
        assert open_files() == before + 1
        assert path.read_text() == ("new\n" if change == "replaced" else "")
        with pytest.raises(RunError, match="another process writes this file"), lock(path):
            pass


def test_any_other_fault_of_locking_is_an_error(tmp_path, monkeypatch):
    def broken(descriptor, operation):
        raise OSError(EIO, os.strerror(EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    refused = pytest.raises(RunError, match=r"cannot lock it \(Input/output error\); choose another output")
    with refused, lock(tmp_path / "replies.jsonl"):
        pass


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
    check_output(replies, [tmp_path / "missing"])
    (tmp_path / "verdicts.jsonl").touch()
    check_output(tmp_path / "verdicts.jsonl", [replies])
