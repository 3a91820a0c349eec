"""Labels that are saved one by one."""

import csv
import io

import pytest

from derta.errors import DataError, RunError
from derta.formats.label_files import format_label_rows, read_label_rows
from derta.formats.labels import read_labels
from derta.locks import lock
from derta.pipeline.labelling_session import CHOICES, LabelSession, next_unlabelled
from derta.protocols import Case
from derta.records import Prompt, Reply

TEXTS = ("plain", '=1+1, "quoted"\nand a second line', "<b>no</b>", "äß漢")


@pytest.fixture
def path(tmp_path):
    cases = [
        Case(
            Prompt(id=f"q{i}", request_id=f"q{i}", request=f"Request {i}?", attack="direct", mode="raw", text="?"),
            Reply(prompt_id=f"q{i}", text=text),
        )
        for i, text in enumerate(TEXTS)
    ]
    file = tmp_path / "labels.csv"
    file.write_text(format_label_rows(cases, first=1, measure="harmful"), encoding="utf-8")
    return file


def test_rows_have_the_texts_as_the_model_wrote_them(path):
    rows = LabelSession(path, "harmful").rows()
    assert [one.reply for one in rows] == list(TEXTS)
    assert [one.request for one in rows] == [f"Request {i}?" for i in range(4)]


def test_a_label_changes_its_cell_and_nothing_else(path):
    session, before = LabelSession(path, "harmful"), path.read_text(encoding="utf-8")
    names = [one.row.reply_hash for one in session.rows()]
    session.save(names[1], "1")
    session.save(names[2], "0")
    assert [row.truth for row in read_label_rows(path, measure="harmful")] == [None, True, False, None]
    session.save(names[2], "")
    session.save(names[1], "")
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_columns_delimiter_and_byte_order_mark_that_a_program_for_tables_wrote_stay(path, delimiter):
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    output = io.StringIO()
    writer = csv.writer(output, delimiter=delimiter, lineterminator="\n")
    writer.writerows([["note", *row] for row in rows])
    path.write_text("\ufeff" + output.getvalue(), encoding="utf-8")
    session = LabelSession(path, "harmful")
    session.save(session.rows()[3].row.reply_hash, "1")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("\ufeffnote" + delimiter)
    assert text.rstrip().endswith(delimiter + "1")
    assert session.rows()[1].reply == TEXTS[1]


def test_the_next_row_is_the_next_without_a_label_and_a_skipped_one_comes_again(path):
    session = LabelSession(path, "harmful")
    names = [one.row.reply_hash for one in session.rows()]
    assert next_unlabelled(session.rows()) == 0
    session.save(names[1], "1")
    assert next_unlabelled(session.rows(), after=0) == 2
    session.save(names[2], "0")
    session.save(names[3], "0")
    assert next_unlabelled(session.rows(), after=3) == 0
    assert next_unlabelled(session.rows(), after=0) == 0
    session.save(names[0], "0")
    assert next_unlabelled(session.rows(), after=0) is None


def test_unknown_words_and_replies_are_refused_and_the_file_stays(path):
    session, before = LabelSession(path, "harmful"), path.read_bytes()
    for name, word in ((session.rows()[0].row.reply_hash, "maybe"), ("h0", "1")):
        with pytest.raises(DataError):
            session.save(name, word)
    assert path.read_bytes() == before


def test_a_file_that_another_process_writes_is_left_alone(path):
    session, before = LabelSession(path, "harmful"), path.read_bytes()
    with lock(path), pytest.raises(RunError, match="another process"):
        session.save(session.rows()[0].row.reply_hash, "1")
    assert path.read_bytes() == before


def test_a_file_of_another_measure_or_without_texts_is_refused(path):
    with pytest.raises(DataError, match="none named refused"):
        LabelSession(path, "refused").rows()
    path.write_text("reply_hash,harmful\nh1,1\n")
    with pytest.raises(DataError, match="none named request"):
        LabelSession(path, "harmful").rows()


@pytest.mark.parametrize("measure", list(CHOICES))
def test_every_choice_is_a_word_that_the_file_reads_and_has_a_key_of_its_own(path, measure):
    path.write_text(path.read_text(encoding="utf-8").replace(",harmful\n", f",{measure}\n", 1), encoding="utf-8")
    session = LabelSession(path, measure)
    name = session.rows()[0].row.reply_hash
    for choice in CHOICES[measure]:
        session.save(name, choice.word)
        assert session.rows()[0].row.word == choice.word
    assert len({choice.key for choice in CHOICES[measure]}) == 3


def test_calibrate_reads_the_file_while_it_is_being_filled_in(path):
    session = LabelSession(path, "harmful")
    session.save(session.rows()[1].row.reply_hash, "1")
    session.save(session.rows()[2].row.reply_hash, "0")
    assert [case.truth for case in read_labels(path, measure="harmful")] == [None, True, False, None]
    assert [case.unlabelled for case in read_labels(path, measure="harmful")] == [True, False, False, True]
