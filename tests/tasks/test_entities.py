from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from compressor.runtime.tags import NO_TAG, Entity, SchemeProblem, Tags, read_tags, scheme_of
from compressor.tasks.entities import entity_counts, f1, macro_f1, micro_counts, precision, recall
from compressor.tasks.metrics import first_over_second

KINDS = ("LOC", "ORG", "PER")
IOB2 = read_tags(["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI")])
IOBES = read_tags(["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BIES")])
BILOU = read_tags(["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BILU")])


def entities(tags: Tags, names: Sequence[str]) -> list[tuple[str, int, int]]:
    ids = [tags.labels.index(name) for name in names]
    return [(tags.kinds[kind], start, end) for kind, start, end in tags.entities(ids)]


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "IOB2"),
        (["B-PER", "I-PER"], "IOB2"),
        (["O", "B-PER"], "IOB2"),
        (["O", "B-NP", "I-NP", "[CLS]", "X"], "IOB2"),
        (["O", "B-PER", "I-PER", "E-PER", "S-PER"], "IOBES"),
        (["O", "S-PER"], "IOBES"),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], "BILOU"),
        (["O", "B-PER", "I-PER", "S-PER"], "BIOS"),
        (["O", "B-PER", "I-PER", "U-PER"], "BIOS"),
        (["O", "B-PER", "M-PER", "E-PER", "S-PER"], "BMES"),
        (["O", "B-LOC", "I-LOC", "I-PER"], "IOB1"),
        (["O", "B_PER", "I_PER", "B_LOC"], "IOB2"),
        (["O", "PER-B", "PER-I"], "IOB2"),
        (["O", "PER_B", "PER_M", "PER_E", "PER_S"], "BMES"),
        (["O", "VITAMIN-B", "HEPATITIS-B"], "plain"),
        (["O", "S_CORP", "PHONE"], "plain"),
        (["O", "I-PER", "I-LOC"], "IO"),
        (["NOUN", "VERB", "-LRB-"], "plain"),
        (["O", "PER", "LOC"], "plain"),
        (["O", "E-MAIL", "PHONE"], "plain"),
        (["LABEL_0", "LABEL_1"], "plain"),
    ],
)
def test_the_scheme_is_read_off_the_prefixes(labels: list[str], scheme: str):
    assert scheme_of(labels) == scheme


def test_prefixes_of_no_known_scheme_are_refused():
    with pytest.raises(SchemeProblem, match="E-, I-") as caught:
        read_tags(["O", "I-PER", "E-PER"])
    assert "IOBES" in str(caught.value)


def test_an_inside_tag_after_another_kind_belongs_to_no_entity():
    names = ["I-PER", "B-PER", "I-LOC", "I-LOC", "O", "B-LOC", "B-LOC", "I-LOC"]
    assert entities(IOB2, names) == [("PER", 1, 2), ("LOC", 5, 6), ("LOC", 6, 8)]


def test_an_entity_of_iobes_without_its_end_is_none():
    names = ["B-PER", "I-PER", "O", "B-PER", "E-PER", "S-LOC", "E-LOC", "B-LOC", "E-PER"]
    assert entities(IOBES, names) == [("PER", 3, 5), ("LOC", 5, 6)]


def test_where_no_tag_is_for_an_end_entities_end_by_themselves():
    tags = read_tags(["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BIS")])
    names = ["B-PER", "I-PER", "O", "B-LOC", "S-LOC", "I-LOC", "B-PER", "I-LOC"]
    assert entities(tags, names) == [
        ("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5), ("PER", 6, 7),
    ]  # fmt: skip


def test_tags_of_bmes_are_those_of_iobes_with_another_letter():
    labels = ["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BMES")]
    names = ["B-PER", "M-PER", "E-PER", "S-LOC", "B-LOC", "M-LOC", "O"]
    assert entities(read_tags(labels), names) == [("PER", 0, 3), ("LOC", 3, 4)]


def test_entities_of_iob1_begin_inside_unless_one_of_their_kind_stands_before():
    tags = read_tags(["O", "I-PER", "I-LOC", "B-LOC"])
    names = ["I-PER", "I-PER", "I-LOC", "B-LOC", "I-LOC", "O", "I-LOC"]
    assert entities(tags, names) == [
        ("PER", 0, 2), ("LOC", 2, 3), ("LOC", 3, 5), ("LOC", 6, 7),
    ]  # fmt: skip


@pytest.mark.parametrize("spelling", ["{0}_{1}", "{1}-{0}", "{1}_{0}"])
def test_tags_that_are_spelled_otherwise_say_the_same(spelling: str):
    names = ["B-PER", "I-PER", "I-LOC", "B-LOC", "O", "B-LOC", "I-LOC"]
    labels = ["O", *(spelling.format(prefix, kind) for kind in KINDS for prefix in "BI")]
    other = [name if name == "O" else spelling.format(*name.split("-")) for name in names]
    assert entities(read_tags(labels), other) == entities(IOB2, names)


def test_words_in_a_row_are_one_entity_without_a_beginning_tag():
    tags = read_tags(["O", "I-PER", "I-LOC"])
    assert entities(tags, ["I-PER", "I-PER", "I-LOC", "O", "I-LOC"]) == [
        ("PER", 0, 2), ("LOC", 2, 3), ("LOC", 4, 5),
    ]  # fmt: skip


def test_every_word_with_a_plain_tag_is_a_unit():
    tags = read_tags(["DET", "NOUN", "O"])
    assert entities(tags, ["NOUN", "NOUN", "O", "DET"]) == [
        ("NOUN", 0, 1), ("NOUN", 1, 2), ("DET", 3, 4),
    ]  # fmt: skip


def test_a_word_without_a_tag_ends_an_entity():
    begin, inside = IOB2.labels.index("B-PER"), IOB2.labels.index("I-PER")
    assert IOB2.entities([begin, NO_TAG, inside]) == [Entity(IOB2.kinds.index("PER"), 0, 1)]


def test_tags_without_a_kind_of_entity_have_none():
    tags = read_tags(["O"])
    counts = entity_counts(tags, [[]], [tags.entities([0, 0])])
    assert (tags.kinds, counts.tolist(), macro_f1(counts).tolist()) == ((), [[0, 0, 0]], [0.0])


def test_entities_that_begin_with_an_inside_tag_are_counted():
    names = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-LOC", "I-PER"]
    assert IOB2.starts([IOB2.labels.index(name) for name in names]) == (1, 3)


def random_documents(tags: Tags, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Return labelled and predicted tags of 2,000 documents, in which half of the tags agree."""
    random = np.random.default_rng(seed)
    labelled, predicted = [], []
    for length in random.integers(1, 12, size=2000).tolist():
        own = random.integers(len(tags.labels), size=length)
        other = np.where(random.random(length) < 0.6, own, random.integers(len(tags.labels)))
        labelled.append([tags.labels[tag] for tag in own])
        predicted.append([tags.labels[tag] for tag in other])
    return labelled, predicted


@pytest.mark.parametrize(("tags", "name"), [(IOB2, "IOB2"), (IOBES, "IOBES"), (BILOU, "BILOU")])
def test_scores_equal_those_of_seqeval(tags: Tags, name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was built with an older setuptools
        import seqeval.metrics
        import seqeval.scheme
    labelled, predicted = random_documents(tags, seed=len(tags.labels))
    ids = tags.labels.index
    counts = entity_counts(
        tags,
        [tags.entities(map(ids, document)) for document in predicted],
        [tags.entities(map(ids, document)) for document in labelled],
    )
    report = seqeval.metrics.classification_report(
        labelled,
        predicted,
        mode="strict",
        scheme=getattr(seqeval.scheme, name),
        output_dict=True,
        zero_division=0,
    )
    sums = counts.sum(axis=0)
    assert sums[2::3].min() > 100  # there are entities of every kind
    micro = micro_counts(sums)
    assert f1(micro) == pytest.approx(report["micro avg"]["f1-score"], abs=1e-12)
    assert precision(micro) == pytest.approx(report["micro avg"]["precision"], abs=1e-12)
    assert recall(micro) == pytest.approx(report["micro avg"]["recall"], abs=1e-12)
    assert macro_f1(sums) == pytest.approx(report["macro avg"]["f1-score"], abs=1e-12)
    by_kind = sums.reshape(-1, 3)
    assert f1(by_kind) == pytest.approx([report[kind]["f1-score"] for kind in tags.kinds])
    assert recall(by_kind) == pytest.approx([report[kind]["recall"] for kind in tags.kinds])


@pytest.mark.parametrize(("tags", "name"), [(IOB2, "IOB2"), (IOBES, "IOBES"), (BILOU, "BILOU")])
def test_each_documents_entities_are_those_of_seqeval(tags: Tags, name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import seqeval.scheme
    documents, _ = random_documents(tags, seed=1)
    theirs = seqeval.scheme.Entities(documents, getattr(seqeval.scheme, name)).entities
    for document, found in zip(documents, theirs, strict=True):
        assert entities(tags, document) == [(item.tag, item.start, item.end) for item in found]


def test_statistics_take_sums_of_any_number_of_resamples():
    sums = np.array(
        [[[1.0, 2.0, 2.0, 0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 0.0, 1.0, 3.0]]]
    )  # (2, 1, 6)
    assert macro_f1(sums).tolist() == [[0.5], [0.5]]
    assert micro_counts(sums).tolist() == [[[1, 2, 2]], [[1, 2, 4]]]
    assert first_over_second(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [0.75, 0.0]
