"""How README.md is read: a block that is overlooked would be a check that cannot fail."""

import pytest
from readme_blocks import parse, prints


def test_a_block_has_its_markers_and_the_output_below_it():
    text = "Words.\n\n<!-- exit: 1 -->\n```bash\nfalse\n```\n\n<!-- output -->\n```text\nno …\n```\n"

    block, output = parse(text)

    assert (block.language, block.text, block.line, block.exit, block.output) == ("bash", "false\n", 4, 1, "no …\n")
    assert output.language == "text"


def test_a_comment_in_the_prose_is_no_marker():
    assert parse("<!-- table -->\n\nWords.\n\n```text\nx\n```\n")[0].markers == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<!-- skip: slow -->\n```bash\ntrue\n```\n", "skip is no marker"),
        ("<!-- exit: 1 -->\n\nWords.\n", "belongs to no block"),
        ("<!-- exit: 1 -->\n", "belongs to no block"),
        ("```bash\ntrue\n", "not closed"),
        ("<!-- output -->\n```text\nx\n```\n", "no block above"),
    ],
)
def test_a_marker_that_would_do_nothing_is_an_error(text: str, wrong: str):
    with pytest.raises(ValueError, match=wrong):
        parse(text)


@pytest.mark.parametrize(
    ("expected", "printed", "found"),
    [
        ("", "anything", True),
        ("a\nc", "a\nb\nc\n", True),
        ("c\na", "a\nb\nc\n", False),
        ("score … passes", "score  0.031   passes", True),
        ("score … passes", "score 0.9 violates", False),
        ("a.c", "abc", False),
        ("a", "ab", False),
    ],
)
def test_expected_lines_are_looked_for_in_order(expected: str, printed: str, found: bool):
    assert prints(expected, printed) is found
