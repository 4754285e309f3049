import doctest

import pytest

from compressor.report import templating
from compressor.report.report_json import from_plain
from compressor.report.templating import escape_markdown, fenced, fill_markdown, printable


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(templating).failed == 0


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines\r\n  three", "two lines three"),
        ("`code`", r"\`code\`"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("&lt;", "&amp;lt;"),
        ("[text](http://example.org)", r"\[text\](http://example.org)"),
        ("**bold**", r"\*\*bold\*\*"),
        ("quantize_dynamic", "quantize_dynamic"),
        ("_emphasis_", r"\_emphasis\_"),
        ("# title", r"\# title"),
        ("- item", r"\- item"),
        ("> quote", r"\> quote"),
        ("---", r"\---"),
        ("1. first", r"1\. first"),
        ("90.4", "90.4"),
        ("+0.12", "+0.12"),
        ("back\\slash", "back\\\\slash"),
    ],
)
def test_text_means_itself_in_markdown(text: str, escaped: str):
    assert escape_markdown(text) == escaped


def test_control_characters_and_marks_that_reverse_text_are_replaced():
    assert printable("a\x00b\x1b[31mc\u202ed\ud800e") == "a\ufffdb\ufffd[31mc\ufffdd\ufffde"


def test_a_fence_is_longer_than_any_run_of_backticks_inside():
    assert fenced("x: ````\n", "yaml") == "`````yaml\nx: ````\n`````"


def test_a_name_that_no_template_knows_is_an_error(passed):
    with pytest.raises(Exception, match="view"):
        fill_markdown("report.md.j2", report=from_plain(passed))
