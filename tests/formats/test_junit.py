from xml.etree import ElementTree

from derta.formats.junit import JUnitCase, write_junit


def test_each_case_is_a_test_and_a_failed_one_has_its_text(tmp_path):
    cases = [JUnitCase("max a=0.1", "FAIL 2 > 1", False), JUnitCase("min b=0.1", "pass", True)]
    write_junit(tmp_path / "out.xml", cases, suite="derta gate", group="derta")
    root = ElementTree.parse(tmp_path / "out.xml").getroot()  # noqa: S314 - our own file
    assert (root.tag, root.attrib) == ("testsuites", {"tests": "2", "failures": "1", "errors": "0"})
    [suite] = root
    assert suite.attrib == {"name": "derta gate", "tests": "2", "failures": "1", "errors": "0"}
    assert [(one.get("name"), one.get("classname")) for one in suite] == [
        ("max a=0.1", "derta"),
        ("min b=0.1", "derta"),
    ]
    assert [failure.get("message") for failure in suite.iter("failure")] == ["FAIL 2 > 1"]


def test_hostile_names_stay_text(tmp_path):
    name = '</testcase><failure "&]]>\x00\x1b[2J\ud800\ufffe'
    write_junit(tmp_path / "out.xml", [JUnitCase(name, name, False)], suite=name, group=name)
    root = ElementTree.parse(tmp_path / "out.xml").getroot()  # noqa: S314 - our own file
    [case] = root.iter("testcase")
    assert case.get("name").startswith('</testcase><failure "&]]>⟨U+0000⟩')
    assert len(list(root.iter("failure"))) == 1
