from __future__ import annotations

import pytest

from compressor.errors import RecipeError
from compressor.recipe.yaml_source import parse_document, parse_value


def mistakes_of(text: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_document(text, "r.yaml")
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("7", 7),
        ("-7", -7),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("2024-01-31", "2024-01-31"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("9" * 19, "9" * 19),
        ("12abc", "12abc"),
    ],
)
def test_plain_words_follow_yaml_1_2_without_infinities(word: str, value: object) -> None:
    found = parse_document(f"key: {word}", "r.yaml").data["key"]
    assert (found, type(found)) == (value, type(value))


def test_quoted_words_stay_text() -> None:
    assert parse_document("key: ['1', \"true\", '']", "r.yaml").data == {"key": ["1", "true", ""]}


def test_keys_are_text_whatever_they_look_like() -> None:
    assert parse_document("{no: 1, 2: 3, null: 4}", "r.yaml").data == {"no": 1, "2": 3, "null": 4}


def test_a_nested_value_is_described_by_the_line_of_its_key() -> None:
    document = parse_document("# why\npasses:\n  - kind: x\n    ratio: 2\n", "r.yaml")
    assert document.describe(("passes", 0, "ratio"), "wrong") == (
        "r.yaml:4: passes[0].ratio: wrong"
    )


def test_an_absent_value_is_described_by_the_line_of_its_parent() -> None:
    document = parse_document("seed: 1\nmodel:\n  task: x\n", "r.yaml")
    assert document.describe(("model", "checkpoint"), "gone") == (
        "r.yaml:2: model.checkpoint: gone"
    )


def test_every_duplicate_key_is_reported_with_both_lines() -> None:
    document = parse_document("a: 1\nb: {c: 1,\n  c: 2}\na: 3\n", "r.yaml")
    assert document.mistakes == [
        "r.yaml:3: b: key 'c' appears twice, first in line 2",
        "r.yaml:4: key 'a' appears twice, first in line 1",
    ]


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: &x [1]\nb: *x", 2, "alias '*x' is not allowed"),
        ("a: 1\nb: !!python/object/apply:os.system [x]", 2, "python/object/apply:os.system"),
        ("a: !!int 5", 1, "tag '!!int' is not allowed"),
        ("a: 1\nb: [1\nc: 2", 3, "not valid YAML"),
        ("a: b: c", 1, "not valid YAML"),
        ("a:\n\t- b", 2, "a tab, which YAML does not take; indent with spaces"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: 1\nb: \x01", 2, "character U+0001 is not allowed"),
        ('a: "b', 1, "not valid YAML"),
        ("[" * 5000, 1, "nested deeper than 32 levels"),
        ("", 1, "the recipe is empty"),
        ("\n# only a comment\n", 1, "the recipe is empty"),
        (
            "\n- a",
            2,
            "a recipe is a mapping with keys such as model and data, got a list of 1 entry",
        ),
        ("5", 1, "got 5"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_one_mistake_with_its_line(
    text: str, line: int, part: str
) -> None:
    [mistake] = mistakes_of(text)
    assert mistake.startswith(f"r.yaml:{line}: ")
    assert part in mistake


def test_a_billion_laughs_file_is_refused_at_its_first_alias() -> None:
    levels = [
        f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 9)}]" for level in range(9)
    ]
    [mistake] = mistakes_of("\n".join(["a0: &a0 lol", *levels]))
    assert mistake.startswith("r.yaml:2: ")


def test_a_list_as_key_is_a_mistake() -> None:
    assert parse_document("x:\n  ? [a]\n  : 1\n", "r.yaml").mistakes == [
        "r.yaml:2: x: a key must be one word, not a list or mapping"
    ]


def test_half_of_a_surrogate_pair_is_a_mistake() -> None:
    assert parse_document('a: "\\ud800"', "r.yaml").mistakes == [
        "r.yaml:1: a: half of a surrogate pair is no character; remove it"
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[cpu, cuda]", ["cpu", "cuda"]),
        ("{kind: x, ratio: 1e-2}", {"kind": "x", "ratio": 0.01}),
        ("'5'", "5"),
        ("/data/a #1: b.tsv", "/data/a #1: b.tsv"),
        ("*.tsv", "*.tsv"),
        ("!x", "!x"),
        ("0.4", 0.4),
        ("", None),
    ],
)
def test_override_values_are_plain_words_unless_they_start_as_yaml(
    text: str, value: object
) -> None:
    assert parse_value(text) == value


def test_an_override_replaces_a_value_in_a_list() -> None:
    document = parse_document("passes: [{ratio: 1}, {ratio: 2}]", "r.yaml")
    document.override("passes.1.ratio=0.4")
    document.override("passes[0].ratio=0.3")
    assert (document.data, document.mistakes) == (
        {"passes": [{"ratio": 0.3}, {"ratio": 0.4}]},
        [],
    )


def test_an_override_makes_the_mappings_on_its_way() -> None:
    document = parse_document("data:\n", "r.yaml")
    document.override("data.certification.path=/x/dev.tsv")
    assert document.data == {"data": {"certification": {"path": "/x/dev.tsv"}}}


def test_a_later_override_of_the_same_key_wins() -> None:
    document = parse_document("seed: 1", "r.yaml")
    document.override("seed=2")
    document.override("seed=3")
    assert document.data == {"seed": 3}
    assert document.describe(("seed",), "wrong") == "--set seed=3: wrong"


def test_a_mistake_inside_an_overridden_value_names_the_override_and_the_key() -> None:
    document = parse_document("export:\n  opset: 1\n", "r.yaml")
    document.override("export={opset: 5}")
    assert document.describe(("export", "opset"), "wrong") == (
        "--set export={opset: 5}: export.opset: wrong"
    )


def test_a_mapping_that_an_override_made_is_described_by_the_override() -> None:
    document = parse_document("data: {}\n", "r.yaml")
    document.override("data.search.pth=x")
    assert document.describe(("data", "search"), "wrong").startswith("--set data.search.pth=x: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "must look like KEY=VALUE, such as passes.0.ratio=0.4"),
        ("=1", "must look like KEY=VALUE, such as passes.0.ratio=0.4"),
        ("a..b=1", "must look like KEY=VALUE, such as passes.0.ratio=0.4"),
        ("passes.1.ratio=1", "passes is a list, '1' must be an index 0..0"),
        ("passes.-1.ratio=1", "passes is a list, '-1' must be an index 0..0"),
        ("passes.ratio=1", "passes is a list, 'ratio' must be an index 0..0"),
        ("empty.0=1", "empty is an empty list, there is no entry 0 to set"),
        ("absent.0=1", "absent is an empty list, there is no entry 0 to set"),
        ("seed.x=1", "seed is 7, it has no key 'x'"),
        ("passes.0.kind.x=1", "passes[0].kind is 'p', it has no key 'x'"),
        ("seed=[1", "the value is not YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed={a: 1, a: 2}", "value:1: key 'a' appears twice, first in line 1"),
    ],
)
def test_a_wrong_override_is_a_mistake_that_quotes_it(override: str, message: str) -> None:
    document = parse_document("seed: 7\nempty: []\npasses: [{kind: p}]", "r.yaml")
    document.override(override)
    assert document.mistakes == [f"--set {override}: {message}"]


def test_an_override_that_is_not_unicode_is_a_printable_mistake() -> None:
    document = parse_document("output: x", "r.yaml")
    document.override("output=\udc80")
    assert document.mistakes == [
        "--set output=\\udc80: is not valid Unicode text; check the encoding of the terminal"
    ]


def test_sixty_thousand_entries_are_refused_where_the_limit_is_passed() -> None:
    [mistake] = mistakes_of("a:\n" + "- 1\n" * 60_000)
    # The mapping, its key and the list are values too.
    assert mistake == (
        "r.yaml:49999: not valid YAML here: more than 50000 keys and values, which is no recipe"
    )
