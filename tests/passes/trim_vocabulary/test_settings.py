from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import compressor
from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PASSES, Ahead, PassContext, apply_pass, look_ahead
from compressor.passes.distill.settings import Distill
from compressor.passes.trim_vocabulary.cut import UnsupportedTokenizer, table_of
from compressor.passes.trim_vocabulary.settings import TrimVocabulary
from compressor.progress import SILENT
from compressor.recipe.rules import find_conflicts
from compressor.runtime.prompts import Prompts, Query, keep_prompts, prompts_of

ROOT = Path(__file__).parents[2]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# The ids of special tokens are neither first nor together, so that moving them shows.
BEGINNING = ("[PAD]", "unused", "[UNK]", "[CLS]", "zebra", "[SEP]", "[MASK]")
WORDS = ("good", "bad", "film", "films", "a", "the", "very", "movie", "##s", "##ly", "##ilm", "qé")
PIECES = dict.fromkeys((*BEGINNING, *LETTERS, *(f"##{it}" for it in LETTERS), *WORDS, ".", ","))
VOCABULARY = {piece: index for index, piece in enumerate(PIECES)}


def tokenizer_with(vocabulary: dict[str, int]) -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    around = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    special = {f"{name.strip('[]').lower()}_token": name for name in BEGINNING if name[0] == "["}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, model_input_names=names, **special
    )


@pytest.fixture(scope="session")
def word_piece_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved random BERT with whole words, all letters and odd ids of special tokens."""
    directory = tmp_path_factory.mktemp("word-piece")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY) + 3,  # rows that no piece has
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        pad_token_id=VOCABULARY["[PAD]"],
        sep_token_id=VOCABULARY["[SEP]"],
    )
    transformers.BertForSequenceClassification(config).save_pretrained(directory)
    tokenizer_with(VOCABULARY).save_pretrained(directory)
    return directory


@pytest.fixture
def model(word_piece_dir: Path) -> TorchModel:
    return load_checkpoint(word_piece_dir)


def texts_of(*texts: str) -> Dataset:
    """Return each text ten times, so that counting and holding out see all of them."""
    examples = texts * 10
    labels = np.arange(len(examples)) % 2
    return Dataset("train", examples, labels, np.arange(len(examples)), "generated")


def logits(model: TorchModel, texts: list[Any]) -> Any:
    return model.predict(model.task.encode(model.preprocessor, texts))


def test_only_pieces_in_use_letters_and_special_tokens_stay(
    model: TorchModel, make_context: Any, notes: list[str]
):
    context = make_context(train=replace(texts_of("a good film ."), labels=None))
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, context)

    own = trimmed.preprocessor.get_vocab()
    dropped = {"unused", "zebra", "bad", "films", "the", "very", "movie", "##ly", "##ilm"}
    assert set(own) == set(VOCABULARY) - dropped
    in_order = [piece for piece in VOCABULARY if piece in own]
    assert own == {piece: index for index, piece in enumerate(in_order)}
    assert "qé" in own  # é is no piece by itself, so its words would become unknown

    config, table = trimmed.module.config, trimmed.module.get_input_embeddings()
    assert config.vocab_size == table.num_embeddings == len(own) == len(table.weight)
    assert (config.pad_token_id, config.sep_token_id) == (own["[PAD]"], own["[SEP]"])
    assert table.padding_idx == own["[PAD]"]
    assert trimmed.preprocessor.pad_token_id == own["[PAD]"]
    assert trimmed.preprocessor.unk_token_id == own["[UNK]"]
    rows = len(VOCABULARY) + 3
    assert notes[0] == (
        f"{len(own)} of {rows} pieces stay ({len(own) / rows:.1%}), counted in 9 texts"
    )
    assert notes[1].startswith("of 1 texts that were not counted, the tokens of 0 change (0.0%)")


def test_prompts_and_their_pieces_stay(word_piece_dir: Path, make_context: Any):
    model = load_checkpoint(word_piece_dir, task="sentence-embedding")
    prompts = Prompts({"query": "the very "}, "query")
    keep_prompts(model.preprocessor, prompts)
    before = logits(model, ["a good film", Query("a good film")])
    context = make_context(train=texts_of("a good film"))
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, context)
    own = set(trimmed.preprocessor.get_vocab())
    assert {"the", "very", "good"} <= own
    assert "zebra" not in own
    assert prompts_of(trimmed.preprocessor) == prompts
    np.testing.assert_array_equal(logits(trimmed, ["a good film", Query("a good film")]), before)


def test_texts_of_kept_pieces_get_the_very_same_logits(model: TorchModel, make_context: Any):
    texts = ["a good film .", "bad films , very bad", "qé", "unknown ☃ signs"]
    pairs = [("a good film", "the films"), ("bad", "very .")]
    before, before_pairs = logits(model, texts), logits(model, pairs)
    context = make_context(train=texts_of(*texts, "the"))
    trimmed = apply_pass(TrimVocabulary(held_out=0.02), model, context)
    assert "zebra" not in trimmed.preprocessor.get_vocab()
    np.testing.assert_array_equal(logits(trimmed, texts), before)
    np.testing.assert_array_equal(logits(trimmed, pairs), before_pairs)


def test_a_dropped_piece_falls_back_to_smaller_ones_and_nothing_becomes_unknown(
    model: TorchModel, make_context: Any, notes: list[str]
):
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=texts_of("film")))
    tokenize = trimmed.preprocessor.tokenize
    assert tokenize("zebra films movie") == [
        *("z", "##e", "##b", "##r", "##a"),
        *("film", "##s"),
        *("m", "##o", "##v", "##i", "##e"),
    ]
    assert tokenize("qé ☃") == ["qé", "[UNK]"]


def test_the_report_says_for_how_many_texts_the_tokens_change(
    model: TorchModel, make_context: Any, notes: list[str]
):
    data = texts_of("good film")
    rare = replace(data, examples=(*data.examples[:-1], "zebra"))
    context = make_context(train=rare)
    seed = next(  # the one that holds out the text that is alone
        seed for seed in range(100) if np.random.default_rng(seed).permutation(10)[0] == 9
    )
    context = replace(context, seed=seed)
    apply_pass(TrimVocabulary(held_out=0.1), model, context)
    assert notes[1] == (
        "of 1 texts that were not counted, the tokens of 1 change (100.0%, for example 'zebra' -> "
        "'z ##e ##b ##r ##a'); they are 400.0% longer in all"
    )
    assert context.facts["changed_tokens"] == {"texts": 1, "changed": 1, "more_tokens": 4.0}


def test_rare_pieces_go_unless_a_pattern_keeps_them(model: TorchModel, make_context: Any):
    texts = replace(texts_of("film"), examples=("film",) * 9 + ("zebra movie",))
    settings = {"min_count": 2, "held_out": 0.1, "keep": ["zeb*", "##l?"]}
    trimmed = apply_pass(TrimVocabulary.model_validate(settings), model, make_context(train=texts))
    own = trimmed.preprocessor.get_vocab()
    assert {"film", "zebra", "##ly"} <= set(own)
    assert not {"movie", "##ilm"} & set(own)


def test_the_first_pieces_of_the_vocabulary_stay_where_a_recipe_says_so(
    model: TorchModel, make_context: Any
):
    last = VOCABULARY["zebra"]
    settings = TrimVocabulary(held_out=0.1, keep_first=last)
    trimmed = apply_pass(settings, model, make_context(train=texts_of("a good film .")))
    own = trimmed.preprocessor.get_vocab()
    assert set(own) >= {piece for piece, index in VOCABULARY.items() if index < last}
    assert "zebra" not in own


def test_between_counts_of_first_pieces_nothing_is_tried():
    assert TrimVocabulary().halfway(TrimVocabulary(keep_first=5_000)) is None


def test_several_splits_are_counted(model: TorchModel, make_context: Any):
    settings = TrimVocabulary(count_in=("train", "calibration"))
    assert settings.required_splits() == {"train", "calibration"}
    context = make_context(train=texts_of("zebra"), calibration=texts_of("movie"))
    own = apply_pass(settings, model, context).preprocessor.get_vocab()
    assert {"zebra", "movie"} <= set(own)


def test_a_trimmed_checkpoint_loads_and_is_trimmed_again(
    model: TorchModel, make_context: Any, tmp_path: Path
):
    texts = ["a good film .", "bad zebra"]
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=texts_of(*texts)))
    expected = logits(trimmed, texts)
    trimmed.save(tmp_path / "trimmed")
    loaded = load_checkpoint(tmp_path / "trimmed")
    np.testing.assert_allclose(logits(loaded, texts), expected, atol=1e-6)
    assert loaded.preprocessor.model_max_length == 32

    again = apply_pass(TrimVocabulary(held_out=0.1), loaded, make_context(train=texts_of(texts[0])))
    assert "zebra" not in again.preprocessor.get_vocab()
    np.testing.assert_allclose(logits(again, texts[:1]), logits(trimmed, texts[:1]), atol=1e-6)


def test_the_tokenizer_of_bert_itself_is_trimmed_too(
    model: TorchModel, make_context: Any, tmp_path: Path
):
    model.preprocessor = transformers.BertTokenizer(vocab=dict(VOCABULARY), model_max_length=32)
    texts = ["a good film .", "bad"]
    before = logits(model, texts)
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=texts_of(*texts)))
    assert isinstance(trimmed.preprocessor, transformers.BertTokenizer)
    np.testing.assert_array_equal(logits(trimmed, texts), before)
    trimmed.save(tmp_path / "trimmed")
    loaded = load_checkpoint(tmp_path / "trimmed")
    np.testing.assert_allclose(logits(loaded, texts), before, atol=1e-6)


def test_a_trimmed_student_learns_logits_but_not_layers(
    word_piece_dir: Path, model: TorchModel, make_context: Any
):
    data = texts_of("a good film", "bad")
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=data))
    context = replace(
        make_context(train=data), load_baseline=lambda: load_checkpoint(word_piece_dir)
    )
    context.work_dir.mkdir()
    apply_pass(Distill(max_steps=1, batch_size=4), trimmed, context)
    with pytest.raises(ValueError, match="reads examples in another way"):
        apply_pass(Distill(max_steps=1, batch_size=4, hidden_weight=1.0), trimmed, context)


def test_a_recipe_that_compares_layers_after_trimming_is_a_mistake():
    recovery = {"kind": "distill", "hidden_weight": 1.0}
    entries = [
        {"kind": "prune_structured", "ratio": 0.5, "recovery": recovery},
        {"kind": "trim_vocabulary"},
        {"kind": "prune_structured", "ratio": 0.5, "recovery": recovery},
        {"kind": "distill", "attention_weight": 0.5},
        {"kind": "distill"},
    ]
    first, second = find_conflicts({"passes": entries}, PASSES)
    assert first.path == ("passes", 2, "recovery", "hidden_weight")
    assert first.message == (
        "compares layers with the untouched checkpoint's, which reads other tokens since "
        "trim_vocabulary (passes[1]); move trim_vocabulary behind this pass, or set hidden_weight "
        "to 0"
    )
    assert second.path == ("passes", 3, "attention_weight")


def test_a_run_ships_the_trimmed_tokenizer(word_piece_dir: Path, tmp_path: Path):
    texts = ["a good film .", "bad films , very bad", "the zebra", "a movie"] * 6
    untouched = load_checkpoint(word_piece_dir)
    predictions = logits(untouched, texts).argmax(axis=1)
    for name, rows in (("train", texts[:2] * 6), ("search", texts)):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            writer.writerows(zip(rows, predictions, strict=False))
    recipe = {
        "model": {"checkpoint": str(word_piece_dir)},
        "data": {
            "text": "text",
            "label": "label",
            "train": {"path": "train.csv"},
            "search": {"path": "search.csv"},
        },
        "budget": {"max_drop": 0.9},
        "passes": [
            {"kind": "trim_vocabulary", "held_out": 0.1},
            {"kind": "quantize_dynamic", "min_elements": 64},
        ],
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [8], "num_runs": 2, "threads": 1},
        "output": "run",
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import compressor\n"
        "artifact = compressor.load_artifact(sys.argv[1])\n"
        "print(len(artifact.preprocessor), artifact(['the zebra'])[0]['label'])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    compressor.run(compressor.load_recipe(tmp_path / "recipe.yaml"), device="cpu")
    shown = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run" / "artifact")],
        check=True,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout.split()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    size = json.loads((tmp_path / "run" / "artifact" / "config.json").read_text())["vocab_size"]
    assert int(shown[0]) == size < len(VOCABULARY)
    assert shown[1] in ("LABEL_0", "LABEL_1")
    assert report["verdict"] == "passed"
    assert report["passes"][0]["facts"]["changed_tokens"]["texts"] == 1


def whole_words() -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    )


def random_merges() -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(dropout=0.1)))


class Slow(transformers.PythonBackend):
    """A tokenizer without a tokenizer.json."""

    vocab_size = 1

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (whole_words, "its model is WordLevel, where a dropped piece does not fall back"),
        (random_merges, r"it leaves out merges at random \(dropout\)"),
        (Slow, "it is a slow tokenizer"),
        (lambda: transformers.ViTImageProcessorPil(), "it is not a tokenizer"),
    ],
)
def test_other_preprocessors_are_refused_by_name(
    model: TorchModel, make_context: Any, make: Callable[[], Any], reason: str
):
    model.preprocessor = make()
    with pytest.raises(UnsupportedTokenizer, match=reason) as caught:
        apply_pass(TrimVocabulary(), model, make_context(train=texts_of("film")))
    assert caught.value.kind == type(model.preprocessor).__name__
    assert len(model.module.get_input_embeddings().weight) == len(VOCABULARY) + 3


@pytest.mark.parametrize(
    ("settings", "texts", "message"),
    [
        ({"keep": ["film", "nothing*"]}, ("film",), r"keep\[1\]: 'nothing\*' matches none"),
        ({"min_count": 100}, ("film",), "no piece occurs 100 times in 9 texts"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_changes(
    model: TorchModel, make_context: Any, settings: Any, texts: tuple[str, ...], message: str
):
    with pytest.raises(ValueError, match=message):
        apply_pass(
            TrimVocabulary.model_validate(settings), model, make_context(train=texts_of(*texts))
        )
    assert model.module.config.vocab_size == len(VOCABULARY) + 3


@pytest.mark.parametrize(("share", "changed"), [(0.01, 1), (0.99, 9)])
def test_of_few_texts_one_at_least_is_counted_and_one_held_out(
    model: TorchModel, make_context: Any, share: float, changed: int
):
    context = make_context(train=texts_of("film"))
    apply_pass(TrimVocabulary(held_out=share), model, context)
    assert context.facts["changed_tokens"]["texts"] == changed


def test_too_few_texts_are_told_before_anything_runs(model: TorchModel):
    one = replace(texts_of("film"), examples=("film",))
    with pytest.raises(ValueError, match="train has 1 text to count, and it takes two at least"):
        look_ahead(TrimVocabulary(), model, Ahead(model, {"train": one}, seed=0))
    with pytest.raises(ValueError, match="no piece occurs 1,000 times"):
        look_ahead(
            TrimVocabulary(min_count=1000), model, Ahead(model, {"train": texts_of("film")}, seed=0)
        )


def test_a_count_that_no_piece_reaches_is_to_be_lowered(model: TorchModel, make_context: Any):
    step = TrimVocabulary(min_count=10**9, held_out=0.1)
    with pytest.raises(ValueError, match=r"no piece occurs 1,000,000,000 times .*; lower it$"):
        apply_pass(step, model, make_context(train=texts_of("film")))


def test_a_vocabulary_whose_pieces_all_have_to_stay_says_so(model: TorchModel, make_context: Any):
    pieces = {piece: index for index, piece in enumerate((*BEGINNING, *"unsedzbra"))}
    model.preprocessor = tokenizer_with(pieces)
    model.module.resize_token_embeddings(len(pieces))
    with pytest.raises(ValueError, match="have to stay, however often they occur"):
        apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=texts_of("a")))


def test_a_vocabulary_that_is_all_in_use_is_refused(model: TorchModel, make_context: Any):
    trimmed = apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=texts_of("film")))
    with pytest.raises(ValueError, match="nothing to trim; raise min_count"):
        apply_pass(TrimVocabulary(held_out=0.1), trimmed, make_context(train=texts_of("film")))


def test_positions_that_hang_on_the_id_of_the_padding_are_not_moved(
    model: TorchModel, make_context: Any
):
    table = model.module.base_model.embeddings.position_embeddings
    table.padding_idx = VOCABULARY["[MASK]"]  # as in RoBERTa and its descendants
    with pytest.raises(ValueError, match="counts positions from the id of its padding, 6"):
        apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=texts_of("film")))


@pytest.mark.parametrize(
    "settings", [{"min_count": 0}, {"count_in": []}, {"count_in": ["search"]}, {"held_out": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings: Any):
    with pytest.raises(ValidationError):
        TrimVocabulary.model_validate(settings)


ODD = ("[unused0]", "Film", "##!", "##京", "京", "!", "é", "##é", "a b", "don't", "##")


def with_odd_pieces(model: TorchModel, *, strip_accents: bool = False) -> TorchModel:
    """Return the model with pieces more that a text can lead to, and that none can."""
    pieces = dict.fromkeys((*VOCABULARY, *ODD))
    tokenizer = tokenizer_with({piece: index for index, piece in enumerate(pieces)})
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=True, strip_accents=strip_accents
    )
    model.module.resize_token_embeddings(len(pieces))
    return TorchModel(model.module, tokenizer, model.task)


@pytest.mark.parametrize(
    ("strip_accents", "reachable"), [(False, {"京", "!", "é", "##é"}), (True, {"京", "!"})]
)
def test_only_pieces_that_no_text_leads_to_go_and_no_prediction_changes(
    model: TorchModel,
    make_context: Any,
    notes: list[str],
    strip_accents: bool,
    reachable: set[str],
):
    odd = with_odd_pieces(model, strip_accents=strip_accents)
    texts = ["A Film !", "caf\u00e9 don't a!b a京b 京", "[unused0] ## Ä§ [MASK]", "".join(PIECES)]
    tokens, before = [odd.preprocessor.tokenize(text) for text in texts], logits(odd, texts)
    trimmed = apply_pass(TrimVocabulary(drop="unreachable"), odd, make_context())
    own = trimmed.preprocessor.get_vocab()
    # A piece of nothing but the prefix looks like one at the beginning of a word, and "#" is split.
    assert set(own) & set(ODD) == reachable
    assert set(VOCABULARY) - {"qé"} <= set(own)
    assert [trimmed.preprocessor.tokenize(text) for text in texts] == tokens
    np.testing.assert_array_equal(logits(trimmed, texts), before)
    assert notes[0].startswith(f"{len(own)} of {len({*VOCABULARY, *ODD})} pieces stay")
    with pytest.raises(ValueError, match=r"lead to all \d+ pieces, .* take drop: unused"):
        apply_pass(TrimVocabulary(drop="unreachable"), trimmed, make_context())


def test_a_pattern_keeps_what_no_text_leads_to(model: TorchModel, make_context: Any):
    settings = TrimVocabulary(drop="unreachable", keep=("[[]unused*",))
    trimmed = apply_pass(settings, with_odd_pieces(model), make_context())
    assert set(trimmed.preprocessor.get_vocab()) & {"[unused0]", "Film"} == {"[unused0]"}


@pytest.mark.parametrize(
    ("lowercase", "strip_accents"), [(True, None), (False, None), (True, False)]
)
def test_what_the_normalizer_leaves_it_leaves_again(lowercase: bool, strip_accents: bool | None):
    """That a piece which it changes is part of no word rests on this; every character is tried."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    left = normalizer.normalize_str("a".join(characters))
    assert len(left) > 1e6
    assert normalizer.normalize_str(left).split() == left.split()


def test_tokenizers_that_change_texts_otherwise_are_refused(model: TorchModel, make_context: Any):
    model.preprocessor.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="this tokenizer has Lowercase and BertPreTokenizer; use"):
        apply_pass(TrimVocabulary(drop="unreachable"), model, make_context())
    assert len(model.module.get_input_embeddings().weight) == len(VOCABULARY) + 3


def test_settings_of_counting_have_no_place_where_nothing_is_counted():
    with pytest.raises(ValidationError, match="min_count: drop: unreachable reads no text"):
        TrimVocabulary(drop="unreachable", min_count=2)
    settings = TrimVocabulary(drop="unreachable")
    assert settings.required_splits() == frozenset()
    assert not list(settings.milder())


def test_vectors_of_texts_whose_tokens_stay_are_the_same_numbers(word_piece_dir: Path):
    model = load_checkpoint(word_piece_dir, task="sentence-embedding")
    texts = texts_of("a good film", "the bad movie")
    before = model.predict(model.task.encode(model.preprocessor, texts.examples))
    context = PassContext(
        {"train": texts}, lambda: model, torch.device("cpu"), 0, Path(), SILENT, lambda _: None
    )
    trimmed = apply_pass(TrimVocabulary(), model, context)
    assert trimmed.module.get_input_embeddings().num_embeddings < len(VOCABULARY)
    after = trimmed.predict(trimmed.task.encode(trimmed.preprocessor, texts.examples))
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "found"),
    [("ibert", "found QuantEmbedding"), ("canine", "transformers names none")],
)
def test_a_model_without_a_row_for_each_piece_is_refused(model_type: str, found: str):
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=10, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=2, max_position_embeddings=8, num_hash_functions=2, num_hash_buckets=4,
    )  # fmt: skip
    with pytest.raises(StepFailed) as caught:
        table_of(transformers.AutoModel.from_config(config))
    assert str(caught.value) == (
        f"a model of type '{model_type}' has no table of words that is a row for each piece "
        f"({found}); remove this pass"
    )
