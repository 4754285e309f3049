"""Every kind of tokenizer, trained on the texts below, is trimmed and reads as before."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.scripts import is_script, scripts_of
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.saving import ModelParts
from compressor.passes.trim_vocabulary.cut import (
    UnsupportedTokenizer,
    trim_vocabulary,
    vocabulary_of,
)
from compressor.passes.trim_vocabulary.settings import TrimVocabulary
from compressor.passes.trim_vocabulary.vocabulary import BytePairs, Unigrams
from compressor.tasks import load_task

ENGLISH = (
    "the old harbour was quiet in the morning",
    "a gripping film, and very funny in places",
    "she was walking along the harbour wall",
    "nobody was there but a fisherman with his dog",
    "the film was made in a small town by the sea",
    "it costs 2 € and 50 ¢, that is 2.5 times more",
)
OTHERS = (
    "το παλιό λιμάνι ήταν ήσυχο το πρωί",
    "περπατούσε δίπλα στη θάλασσα μαζί με το σκύλο",
    "старая гавань утром была тихой",
    "фильм снимали в маленьком городе у моря",
    "東京の海はとても静かでした",
    "京都の映画はとても面白い",
)
CORPUS = (*ENGLISH, *OTHERS) * 3
LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGéÜñß0123456789 .,'-€¢µ²\N{GRINNING FACE}"
EVERY = LATIN + "αβγδεήώжфяюЩ京都海のとå\N{COMBINING ACUTE ACCENT}ﬁ"


def unigrams() -> list[tuple[str, float]]:
    """Return pieces with scores, without special ones, as SentencePiece makes them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, LATIN, EVERY], trainer)
    return [tuple(item) for item in json.loads(tokenizer.to_str())["model"]["vocab"][1:]]


def byte_pairs(*, of_bytes: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE(unk_token=None if of_bytes else "<unk>"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if of_bytes else pre_tokenizers.Metaspace()
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if not of_bytes:
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if of_bytes else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def xlm_roberta() -> Any:
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    return transformers.XLMRobertaTokenizer(vocab=[*special, *unigrams(), ("<mask>", 0.0)])


def normalizing() -> Any:
    """Return one that changes characters before it splits, as XLM-RoBERTa's own does."""
    # A piece of the lowest score always stays. Training orders pieces that are as rare by chance,
    # so that the lowest is one that no text of a test has.
    pieces = [("<unk>", 0.0), *unigrams(), ("\N{REFERENCE MARK}", -99.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    )


def deberta() -> Any:
    special = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    return transformers.DebertaV2Tokenizer(vocab=[*special, *unigrams()])


def albert() -> Any:
    special = [(name, 0.0) for name in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")]
    return transformers.AlbertTokenizer(vocab=[*special, *unigrams()], do_lower_case=True)


def t5() -> Any:
    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    return transformers.T5Tokenizer(vocab=[*special, *unigrams()], extra_ids=5)


def roberta() -> Any:
    vocabulary, merges = byte_pairs(of_bytes=True)
    return transformers.RobertaTokenizer(
        vocab={**vocabulary, "<mask>": len(vocabulary)}, merges=merges
    )


def modern_bert() -> Any:
    """Return one whose special tokens have the last ids, as ModernBERT's."""
    vocabulary, merges = byte_pairs(of_bytes=True)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


def llama() -> Any:
    """Return one of characters that falls back to bytes, and whose words are whole texts."""
    vocabulary, merges = byte_pairs(of_bytes=False)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def word_pieces() -> Any:
    """Return one whose words may go on with any character of the texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=[*names.values()], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


KINDS = {
    made.__name__: made
    for made in (
        xlm_roberta,
        normalizing,
        deberta,
        albert,
        t5,
        roberta,
        modern_bert,
        llama,
        word_pieces,
    )
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a tokenizer by its name; each is trained once, saved and loaded."""
    found: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            KINDS[name]().save_pretrained(folder)
            found[name] = transformers.AutoTokenizer.from_pretrained(folder)
        return found[name]

    return get


def bare(tokenizer: Any) -> TorchModel:
    """Return a random model with a row for each piece, and two that no piece has."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer) + 2,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        pad_token_id=tokenizer.pad_token_id,
    )
    module = transformers.BertForSequenceClassification(config).eval()
    return TorchModel(module, tokenizer, load_task("text-classification"))


def lines(*texts: str) -> Dataset:
    examples = texts * 3
    labels = np.arange(len(examples)) % 2
    return Dataset("train", examples, labels, np.arange(len(examples)), "generated")


def random_texts(letters: str, number: int) -> list[str]:
    """Return words of the texts with letters in between, and such letters alone."""
    draw = random.Random(0)  # noqa: S311 -- texts of a test
    words = [word for text in ENGLISH for word in text.split()]

    def word() -> str:
        known, place = draw.choice(words), draw.randint(0, 9)
        odd = "".join(draw.choices(letters, k=draw.randint(1, 4)))
        return draw.choice((known, odd, known[:place] + odd + known[place:]))

    return [
        draw.choice((" ", " ", "  ", "")).join(word() for _ in range(draw.randint(1, 8)))
        for _ in range(number)
    ]


def old_ids(kept: Any, tokenizer: Any, text: str) -> list[int]:
    """Return what a trimmed tokenizer makes of a text, with the ids of before."""
    return [kept[index] for index in tokenizer(text)["input_ids"]]


def trimmed(
    tokenizer: Any, make_context: Any, settings: TrimVocabulary, texts: Sequence[str] = ENGLISH
) -> tuple[Any, list[int], PassContext]:
    """Return the trimmed tokenizer, the old id of each of its ids, and the context."""
    model, context = bare(tokenizer), make_context(train=lines(*texts))
    ids = torch.arange(len(model.module.get_input_embeddings().weight))
    model.module.get_input_embeddings().weight.data[:, 0] = ids
    found = apply_pass(settings, model, context)
    rows = found.module.get_input_embeddings().weight[:, 0].tolist()
    return found.preprocessor, [int(row) for row in rows], context


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_in_use_goes_and_texts_of_other_pieces_keep_theirs(
    made: Any, make_context: Any, name: str
):
    before = made(name)
    after, kept, _ = trimmed(before, make_context, TrimVocabulary(held_out=0.1))
    unknown = vocabulary_of(before).unknown()
    unknown_id = None if unknown is None else before.get_vocab()[unknown]
    assert len(after) == len(kept) < len(before)
    compared = 0
    for text in (*ENGLISH, *OTHERS, *random_texts(EVERY, 300)):
        old, new = before(text)["input_ids"], old_ids(kept, after, text)
        if set(old) <= set(kept):
            assert new == old, text
            compared += 1
        if unknown_id is not None:
            assert new.count(unknown_id) <= old.count(unknown_id), text
        if name in ("roberta", "modern_bert", "llama"):
            assert after.decode(after(text)["input_ids"]) == before.decode(old)
    assert 30 < compared < 300


@pytest.mark.parametrize("name", KINDS)
def test_with_one_script_every_text_of_it_keeps_its_tokens(
    made: Any, make_context: Any, notes: list[str], name: str
):
    before = made(name)
    settings = TrimVocabulary(drop="other_scripts", keep_scripts=("Latin",))
    after, kept, _ = trimmed(before, make_context, settings)
    gone = set(before.get_vocab()) - set(after.get_vocab())
    assert len(gone) > 20
    assert scripts_of(gone)["Latin"] == 0 or name in ("roberta", "modern_bert")
    for text in (*ENGLISH, *random_texts(LATIN, 200)):
        assert old_ids(kept, after, text) == before(text)["input_ids"], text
    assert "pieces stay" in notes[0]
    assert "those of Latin, those of no script, and what they are made of" in notes[0]


def test_symbols_that_are_read_as_letters_keep_no_words_of_their_script(
    made: Any, make_context: Any
):
    before = made("normalizing")
    settings = TrimVocabulary(drop="other_scripts", keep_scripts=("Cyrillic",))
    after, kept, _ = trimmed(before, make_context, settings)
    # NFKC makes Latin letters of some symbols: all single ones stay, and what one symbol becomes.
    assert before.backend_tokenizer.normalizer.normalize_str("™㎏𝐇") == "TMkgH"
    stay = {piece.strip("▁") for piece in after.get_vocab()} - set(after.all_special_tokens)
    in_latin = {piece for piece in stay if scripts_of([piece])["Latin"]}
    assert {letter for letter in in_latin if len(letter) == 1} == {
        piece
        for piece in before.get_vocab()
        if len(piece) == 1 and scripts_of([piece])["Latin"] and piece.isascii()
    }
    assert {"the", "film"} <= {piece.strip("▁") for piece in before.get_vocab()} - in_latin
    unknown = before.unk_token_id
    for text in ("™ 5 ㎏ ½", "𝐇𝐞𝐥𝐥𝐨", *random_texts("™㎏𝐇𝐞½①0123456789 .,", 100)):
        old, new = before(text)["input_ids"], old_ids(kept, after, text)
        assert new.count(unknown) == old.count(unknown), text


@pytest.mark.parametrize("name", KINDS)
def test_special_tokens_and_the_row_of_each_piece_follow(made: Any, make_context: Any, name: str):
    before = made(name)
    after, kept, _ = trimmed(before, make_context, TrimVocabulary(held_out=0.1))
    assert after.all_special_tokens == before.all_special_tokens
    for old, new in zip(before.all_special_ids, after.all_special_ids, strict=True):
        assert kept[new] == old
    for piece, new in after.get_vocab().items():
        assert before.get_vocab()[piece] == kept[new]


@pytest.mark.parametrize("name", ["xlm_roberta", "roberta", "llama"])
def test_every_loader_reads_the_same_and_no_other_file_lies_there(
    made: Any, make_context: Any, name: str, tmp_path: Path
):
    after, _, _ = trimmed(made(name), make_context, TrimVocabulary(held_out=0.1))
    after.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*ENGLISH, *OTHERS):
        assert plain.encode(text).ids == loaded(text)["input_ids"] == after(text)["input_ids"]


def test_old_files_beside_the_tokenizer_are_left_out_and_listed_tokens_renamed(
    made: Any, make_context: Any, tmp_path: Path
):
    made("xlm_roberta").save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"of before")
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    mask = len(made("xlm_roberta")) - 1
    token = {"content": "<mask>", "lstrip": True, "rstrip": False, "special": True}
    settings["added_tokens_decoder"] = {str(mask): {**token, "single_word": False}}
    path.write_text(json.dumps(settings))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    after, kept, _ = trimmed(loaded, make_context, TrimVocabulary(held_out=0.1))
    after.save_pretrained(tmp_path / "after")
    assert not (tmp_path / "after" / "sentencepiece.bpe.model").exists()
    listed = json.loads((tmp_path / "after" / "tokenizer_config.json").read_text())
    assert set(listed.get("added_tokens_decoder", {})) <= {str(kept.index(mask))}
    assert after.mask_token_id == kept.index(mask)
    assert len(after) == len(kept)


def test_characters_of_other_scripts_go_only_where_scripts_are_named(made: Any, make_context: Any):
    before = made("xlm_roberta")
    all_stay, _, _ = trimmed(before, make_context, TrimVocabulary(held_out=0.1))
    settings = TrimVocabulary(held_out=0.1, keep_scripts=("Latin", "Greek"))
    some, _, context = trimmed(before, make_context, settings)
    single = {piece for piece in before.get_vocab() if len(piece) == 1}
    assert single <= set(all_stay.get_vocab())
    assert {"ж", "京"} <= single
    assert single & set(some.get_vocab()) >= {"α", "é", "€", "2"}
    assert not {"ж", "京"} & set(some.get_vocab())
    assert "unknown" not in context.facts["changed_tokens"]


def test_the_report_counts_texts_with_characters_that_became_unknown(
    made: Any, make_context: Any, notes: list[str]
):
    texts = replace(lines("the film", OTHERS[2]), examples=("the film",) * 5 + (OTHERS[2],))
    seed = next(seed for seed in range(100) if np.random.default_rng(seed).permutation(6)[0] == 5)
    context = replace(make_context(train=texts), seed=seed)
    settings = TrimVocabulary(held_out=0.1, keep_scripts=("Latin",))
    apply_pass(settings, bare(made("xlm_roberta")), context)
    assert context.facts["changed_tokens"]["unknown"] == 1
    assert notes[1].endswith("; 1 text of them with more unknown characters")


def test_the_path_of_merges_is_that_of_the_library(made: Any):
    for name in ("roberta", "llama"):
        found = vocabulary_of(made(name))
        assert isinstance(found, BytePairs)
        for piece in found.ids:
            if piece not in found.added and not piece.startswith("<0x"):
                whole = [token.value for token in found.tokenizer.model.tokenize(piece)]
                path = found.made(piece)
                assert (whole == [piece]) == (path is not None and path[-1] == piece)


def test_without_what_merges_need_the_pass_stops(
    made: Any, make_context: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(BytePairs, "closed", lambda self, stay: stay)
    with pytest.raises(ValueError, match="in another way although all pieces of it stay"):
        trimmed(made("roberta"), make_context, TrimVocabulary(held_out=0.5))


def test_pieces_that_no_text_leads_to_go(make_context: Any):
    """`abc` never beats `ab` and `c`; `xyz` has no merge that makes it."""
    scores = {"<unk>": 0.0, "▁": -1.0, "a": -3.0, "b": -3.0, "c": -1.0, "ab": -1.0, "abc": -5.0}
    scores["rare"] = -9.0  # the lowest one stays, whatever it is
    unigram = Tokenizer(models.Unigram([*scores.items()], unk_id=0))
    pieces = {piece: index for index, piece in enumerate(("<unk>", *"xyz", "xy", "xyz"))}
    bpe = Tokenizer(models.BPE(pieces, [("x", "y")], unk_token="<unk>"))
    for tokenizer, gone in ((unigram, {"abc"}), (bpe, {"xyz"})):
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<unk>", unk_token="<unk>"
        )
        settings = TrimVocabulary(drop="unreachable")
        after, kept, _ = trimmed(made, make_context, settings)
        assert set(made.get_vocab()) - set(after.get_vocab()) == gone
        for letters in itertools.product("abcxyz", repeat=4):
            text = "".join(letters)
            assert old_ids(kept, after, text) == made(text)["input_ids"]


def test_an_unknown_piece_that_is_listed_twice_stays_where_it_is_read(make_context: Any):
    pieces = [("<unk>", 0.0), ("<unk>", 0.0), ("a", -3.0), ("b", -3.0), ("c", -1.0)]
    pieces += [("ab", -1.0), ("abc", -5.0), ("rare", -9.0)]
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)),
        pad_token="<unk>",
        unk_token="<unk>",
    )
    after, kept, _ = trimmed(made, make_context, TrimVocabulary(drop="unreachable"))
    assert "abc" not in after.get_vocab()
    for text in ("abc", "cab", "?a", "b?c"):
        assert old_ids(kept, after, text) == made(text)["input_ids"]


def test_a_score_whose_last_digit_is_read_in_two_ways_is_the_same(make_context: Any):
    read_in_two_ways = -18.863161921499998  # by the library as -18.8631619215
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -3.0), ("b", -3.0)]
    pieces += [("ab", read_in_two_ways), ("ж", -4.0), ("<mask>", 0.0)]
    made = transformers.XLMRobertaTokenizer(vocab=pieces)
    settings = TrimVocabulary(drop="other_scripts", keep_scripts=("Latin",))
    after, _, _ = trimmed(made, make_context, settings)
    assert set(made.get_vocab()) - set(after.get_vocab()) == {"ж"}


def test_whole_words_that_are_looked_up_prove_nothing(make_context: Any):
    pieces = {piece: index for index, piece in enumerate(("<unk>", *"xyz", "xy", "xyz"))}
    model = models.BPE(pieces, [("x", "y")], unk_token="<unk>", ignore_merges=True)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), pad_token="<unk>", unk_token="<unk>"
    )
    with pytest.raises(ValueError, match=r"can prove of no piece .* use drop: unused"):
        trimmed(made, make_context, TrimVocabulary(drop="unreachable"))


def of_characters(*, unknown: bool, some_bytes: bool = False) -> Any:
    """Return one that merges characters, with some of the bytes or none."""
    pieces = (
        ["<pad>", *"ab ж", "ab", "abж", "odd"]
        + ["<unk>"] * unknown
        + ["<0x63>", "<0x64>"] * some_bytes
    )
    model = models.BPE(
        {piece: index for index, piece in enumerate(pieces)},
        [("a", "b"), ("ab", "ж")],
        unk_token="<unk>",
        byte_fallback=some_bytes,
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), pad_token="<pad>"
    )


def test_bytes_stay_where_they_are_not_there_for_every_character(make_context: Any):
    before = of_characters(unknown=True, some_bytes=True)
    after, _, _ = trimmed(before, make_context, TrimVocabulary(drop="unreachable"))
    assert set(before.get_vocab()) - set(after.get_vocab()) == {"odd"}
    assert after.tokenize("abcé") == before.tokenize("abcé") == ["ab", "<0x63>", "<unk>"]


@pytest.mark.parametrize("settings", [{}, {"drop": "other_scripts"}])
def test_scripts_are_not_let_go_where_nothing_would_stand_for_their_characters(
    settings: dict[str, Any], make_context: Any
):
    latin = TrimVocabulary(**settings, keep_scripts=("Latin",))
    with pytest.raises(StepFailed, match="neither a token for unknown ones nor bytes"):
        trimmed(of_characters(unknown=False), make_context, latin)
    after, _, _ = trimmed(of_characters(unknown=True), make_context, latin)
    assert "ж" not in after.get_vocab()


def test_an_unknown_token_that_is_no_piece_is_none(make_context: Any):
    before = of_characters(unknown=False)
    texts = ("aabbab", "abab", "aaabbb", "babaab", "abж")
    settings = TrimVocabulary(held_out=0.5, min_count=9)
    after, _, context = trimmed(before, make_context, settings, texts)
    assert "abж" not in after.get_vocab()
    assert context.facts["changed_tokens"]["changed"] > 0
    assert "unknown" not in context.facts["changed_tokens"]


def test_the_score_of_an_unknown_character_does_not_rise():
    """It is 10 below the lowest of all, so that `ab` with it would beat `a` and `b?` else."""
    scores = {"<unk>": 0.0, "a": -1.0, "b": -1.0, "ab": -1.5, "b?": -14.0, "rare": -20.0}
    tokenizer = Tokenizer(models.Unigram([*scores.items()], unk_id=0))
    found = Unigrams(tokenizer)
    stay = found.closed({found.ids[piece] for piece in ("<unk>", "a", "b", "ab", "b?")})
    assert found.ids["rare"] in stay


@pytest.mark.parametrize(
    ("family", "make"),
    [
        ("Bert", word_pieces),
        ("Roberta", roberta),
        ("XLMRoberta", xlm_roberta),
        ("ModernBert", modern_bert),
        ("Albert", albert),
        ("DistilBert", word_pieces),
        ("Electra", word_pieces),
        ("DebertaV2", deberta),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_of_a_masked_language_model_follows_the_table(
    made: Any, family: str, make: Any, tied: bool, tmp_path: Path
):
    tokenizer = made(make.__name__)
    vocabulary = vocabulary_of(tokenizer)
    used = set(tokenizer(list(ENGLISH))["input_ids"][0])
    kept = sorted(vocabulary.closed(vocabulary.indispensable() | vocabulary.characters() | used))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "DistilBert":
        sizes = {"dim": 8, "n_layers": 1, "n_heads": 2}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **sizes,
        vocab_size=len(tokenizer),
        intermediate_size=8,
        max_position_embeddings=64,
        embedding_size=8,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    module = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    module.tie_weights()
    batch = tokenizer([ENGLISH[0], "the"], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        before = module(**batch).logits
        model = trim_vocabulary(
            TorchModel(module, tokenizer, load_task("text-classification")), kept
        )
        batch = model.preprocessor([ENGLISH[0], "the"], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        after = module(**batch).logits
        torch.testing.assert_close(after, before[..., kept], atol=1e-5, rtol=1e-5)
        module.save_pretrained(tmp_path)
        loaded = type(module).from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(**batch).logits, after)
    assert module.config.vocab_size == len(kept)
    assert kept[module.config.pad_token_id] == tokenizer.pad_token_id
    if module.config.tie_word_embeddings and family != "DebertaV2":
        head = module.get_output_embeddings()
        assert head.weight is module.get_input_embeddings().weight


def test_positions_of_xlm_roberta_and_its_labels_stay(made: Any, make_context: Any, tmp_path: Path):
    tokenizer = made("xlm_roberta")
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=40,
        initializer_range=0.5,
        type_vocab_size=1,
    )
    transformers.XLMRobertaForTokenClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = load_checkpoint(tmp_path / "model")
    texts = [*ENGLISH, "the film"]
    before = model.predict(model.task.encode(model.preprocessor, texts))
    after = apply_pass(
        TrimVocabulary(held_out=0.1), model, make_context(train=lines(*texts, *texts))
    )
    assert after.module.get_input_embeddings().padding_idx == 1
    found = after.predict(after.task.encode(after.preprocessor, texts))
    np.testing.assert_allclose(found, before, atol=1e-6)
    after.save(tmp_path / "after")
    again = load_checkpoint(tmp_path / "after")
    np.testing.assert_allclose(
        again.predict(again.task.encode(again.preprocessor, texts)), before, atol=1e-6
    )


def test_a_tokenizer_that_transformers_makes_otherwise_is_refused(
    made: Any, make_context: Any, monkeypatch: pytest.MonkeyPatch
):
    model = bare(made("xlm_roberta"))
    other = made("xlm_roberta")
    monkeypatch.setattr(type(model.task), "load_preprocessor", lambda self, folder: other)
    with pytest.raises(UnsupportedTokenizer, match="with another added_tokens and model;"):
        apply_pass(TrimVocabulary(held_out=0.1), model, make_context(train=lines(*ENGLISH)))
    assert len(model.module.get_input_embeddings().weight) == len(other) + 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_scripts": ["German"]}, "'German' is no Unicode script"),
        ({"keep_scripts": ["Latin}]"]}, "is no Unicode script"),
        ({"drop": "other_scripts"}, "needs the scripts that stay, such as"),
        ({"drop": "other_scripts", "keep_scripts": ["Latin"], "min_count": 2}, "reads no text"),
        ({"drop": "unreachable", "keep_scripts": ["Latin"]}, "whatever its script"),
    ],
)
def test_settings_of_scripts_that_make_no_sense_are_refused(settings: Any, message: str):
    with pytest.raises(ValidationError, match=message):
        TrimVocabulary.model_validate(settings)


def test_steps_of_recipes_without_scripts_keep_their_keys():
    assert "keep_scripts" not in TrimVocabulary().settings
    assert "keep_scripts" not in TrimVocabulary().model_dump(mode="json")
    settings = TrimVocabulary(keep_scripts=("Latin",)).settings
    assert settings["keep_scripts"] == ["Latin"]


def test_scripts_are_told_by_unicode():
    assert is_script("Latin")
    assert is_script("Canadian_Aboriginal")
    assert not is_script("English")
    counts = scripts_of(["film", "фильм", "2.5", "京都の", "▁море", "é"])
    assert counts == {"Latin": 2, "Cyrillic": 2, "no script": 1, "several scripts": 1}


def test_inspection_says_which_scripts_pieces_are_of():
    parts = ModelParts(
        task=load_task("text-classification"),
        total_bytes=2000,
        layer_bytes=0,
        attention_bytes=0,
        feed_forward_bytes=0,
        word_table_bytes=1000,
        tokenizer="Unigram",
        scripts=(("Latin", 0.62), ("Han", 0.2), ("others", 0.18)),
        layers_flops_share=1.0,
        feed_forward_flops_share=0.5,
        matrices=(),
        tables=(),
        no_layers=None,
        no_prunable_heads=None,
    )
    saving = TrimVocabulary.most_saved(parts)
    assert saving.bytes_saved == 1000
    assert saving.reason == (
        "pieces that the domain does not use, at most all; 62% are Latin, 20% are Han, 18% are "
        "others"
    )
    assert not TrimVocabulary.most_saved(replace(parts, tokenizer="WordLevel")).supported
