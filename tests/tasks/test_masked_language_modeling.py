"""Masked language models: what is hidden, what is kept of huge outputs, and predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from masked_texts import save_masked_model, texts_it_knows
from safetensors.torch import load_file

from compressor.certificate import certify_scores
from compressor.data import Dataset, DataSettings, load_splits
from compressor.errors import EnvironmentMismatch, RecipeError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.inspection.checkpoint import inspect_checkpoint
from compressor.measurements import Score
from compressor.models.families.layers import find_encoder
from compressor.models.structure import remove_feed_forward
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.trim_vocabulary.cut import trim_vocabulary
from compressor.progress import SILENT
from compressor.starter.columns import Asked, guess
from compressor.tasks import Guess, Truth, load_task
from compressor.tasks.hidden_tokens import Hidden, HiddenBatch, few_rows
from compressor.training.batches import training_loader
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import check_distillation, distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun

LONG = " ".join(["good film very bad plot"] * 8)  # 40 tokens
TEXTS = ("a funny story , is it", LONG, "dull")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return load_checkpoint(save_masked_model(tmp_path_factory.mktemp("masked") / "model"))


def encoded(model: TorchModel, *texts: Any) -> HiddenBatch:
    batch = model.task.encode(model.preprocessor, texts)
    assert isinstance(batch, HiddenBatch)
    return batch


def scored(metric: str, model: TorchModel, texts: tuple[str, ...], **truth: Any) -> Any:
    outputs = model.task.predicted(model.predict, [encoded(model, *texts)])
    return model.task.score(metric, outputs, Truth(texts, **truth))


def test_the_checkpoint_tells_the_task(model: TorchModel):
    assert model.task.name == "masked-language-modeling"
    assert model.labels == ()


def test_15_percent_of_a_text_are_hidden_and_never_a_special_token(model: TorchModel):
    batch = encoded(model, *TEXTS)
    plain = model.preprocessor(list(TEXTS), padding=True, return_tensors="np")["input_ids"]
    hidden = batch.targets != -100
    assert hidden.sum(axis=1).tolist() == [1, 6, 1]
    assert np.array_equal(batch["input_ids"] == batch.mask_id, hidden)
    assert np.array_equal(np.where(hidden, batch.targets, batch["input_ids"]), plain)
    assert not np.isin(batch.targets[hidden], model.preprocessor.all_special_ids).any()


def test_the_places_follow_from_the_text_alone(model: TorchModel):
    together, alone = encoded(model, *TEXTS), encoded(model, LONG)
    again = encoded(model, Hidden(LONG))
    assert together.targets[1].tolist() == alone.targets[0].tolist()
    assert again.targets.tolist() == alone.targets.tolist()


def test_training_hides_other_tokens_in_each_epoch_as_bert_was_trained(model: TorchModel):
    texts = [f"{LONG} {word}" for word in ("good", "bad", "film")] * 60
    first, again, second = (
        model.task.encode_to_train(model.preprocessor, texts, (0, epoch)) for epoch in (1, 1, 2)
    )
    assert isinstance(first, HiddenBatch)
    assert isinstance(second, HiddenBatch)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first.targets, second.targets)
    batch = model.task.encode_to_train(
        model.preprocessor, [f"{LONG} {row}" for row in range(500)], (0, 1)
    )
    assert isinstance(batch, HiddenBatch)
    hidden = batch.targets != -100
    found, right = batch["input_ids"][hidden], batch.targets[hidden]
    assert np.mean(found == batch.mask_id) == pytest.approx(0.8, abs=0.03)
    assert np.mean(found == right) == pytest.approx(0.1, abs=0.03)


def test_batches_of_a_training_that_goes_on_are_those_it_would_have_had(model: TorchModel):
    rows = Dataset(
        "train", tuple(f"{LONG} {row}" for row in range(8)), np.zeros(8), np.arange(8), ""
    )

    def batches(first: int) -> list[Any]:
        loader = training_loader(model, rows, batch_size=4, seed=3, first_batch=first)
        return [*loader, *loader][: 4 - first]

    whole, rest = batches(0), batches(3)
    assert torch.equal(whole[3][0]["inputs"]["input_ids"], rest[0][0]["inputs"]["input_ids"])
    assert torch.equal(whole[3][0]["targets"], rest[0][0]["targets"])
    assert not torch.equal(whole[1][0]["targets"], whole[3][0]["targets"])


def test_what_is_kept_of_each_place_is_what_the_logits_say(model: TorchModel):
    batch = encoded(model, *TEXTS)
    logits = model.predict(batch)
    found: Any = model.task.collect([logits], [batch])
    places = torch.from_numpy(logits[batch.targets != -100])
    truth = torch.from_numpy(batch.targets[batch.targets != -100])
    values, top = places.softmax(dim=-1).topk(5)
    assert found.top.tolist() == top.tolist()
    np.testing.assert_allclose(found.top_scores, values, rtol=1e-5)
    logs = places.double().log_softmax(dim=-1)[torch.arange(len(truth)), truth]
    np.testing.assert_allclose(found.log_probabilities, logs, atol=1e-6)
    assert found.values.shape == (8, 64)
    assert found.lengths.tolist() == [1, 6, 1]


def test_rows_are_read_so_few_at_a_time_that_their_logits_fit(model: TorchModel):
    batch = encoded(model, *TEXTS)
    parts = list(few_rows(batch, 250_000))
    most = 2**28 // (4 * 250_000 * batch["input_ids"].shape[1])
    assert [len(part["input_ids"]) for part in few_rows(batch, 2**28)] == [1, 1, 1]
    assert most > 3
    assert [len(part["input_ids"]) for part in parts] == [3]
    whole: Any = model.task.collect([model.predict(batch)], [batch])
    apart: Any = model.task.predicted(model.predict, list(few_rows(batch, 2**28)))
    assert whole.top.tolist() == apart.top.tolist()
    np.testing.assert_allclose(whole.values, apart.values, atol=1e-5)


def test_scores_are_sums_over_texts(model: TorchModel):
    batch = encoded(model, *TEXTS)
    logits = torch.from_numpy(model.predict(batch))
    hidden = torch.from_numpy(batch.targets != -100)
    truth = torch.from_numpy(batch.targets)[hidden]
    right = logits[hidden].argmax(dim=-1) == truth
    accuracy = scored("masked_accuracy", model, TEXTS)
    assert accuracy.value == pytest.approx(float(right.float().mean()))
    assert accuracy.sums[:, 1].tolist() == [1.0, 6.0, 1.0]
    likelihood = scored("pseudo_likelihood", model, TEXTS)
    logs = logits[hidden].log_softmax(dim=-1)[torch.arange(8), truth].clamp(min=np.log(1e-6))
    assert likelihood.value == pytest.approx(float(logs.mean().exp()), rel=1e-5)
    assert scored("masked_agreement", model, TEXTS).value == 1.0


def test_agreement_is_the_share_of_places_with_the_same_token(model: TorchModel):
    reference = scored("masked_agreement", model, TEXTS)
    other = model.clone()
    with torch.no_grad():
        other.module.get_output_embeddings().bias[6] += 100.0
    score = scored("masked_agreement", other, TEXTS, reference=reference)
    name = model.task.score("masked_agreement", _outputs(other), Truth(TEXTS)).kept["top"][0]
    assert score.value == np.mean(reference.kept["top"] == name)


def _outputs(model: TorchModel) -> Any:
    return model.task.predicted(model.predict, [encoded(model, *TEXTS)])


def test_predictions_are_those_of_the_pipeline_of_transformers(model: TorchModel, tmp_path: Path):
    model.save(tmp_path / "saved")
    with torch.no_grad():
        pipeline: Any = transformers.pipeline("fill-mask", model=str(tmp_path / "saved"))
        texts = ["good great [MASK] lovely", "a [MASK] film , it [MASK] very bad", "[MASK]"]
        wanted = pipeline(texts)
    batch = encoded(model, *model.task.given(texts))
    found = model.task.predictions(model.task.predicted(model.predict, [batch]), ())
    assert [len(item) for item in found] == [5, 2, 5]
    for own, other in zip(_flat(found), _flat(wanted), strict=True):
        assert own.pop("score") == pytest.approx(other.pop("score"), rel=1e-4)
        assert own == other


def _flat(found: Any) -> list[dict[str, Any]]:
    places = [place for item in found for place in (item if isinstance(item[0], list) else [item])]
    return [dict(row) for place in places for row in place]


def test_a_text_without_a_place_to_fill_in_is_refused(model: TorchModel):
    with pytest.raises(ValueError, match=r"'a film' holds no \[MASK\] among the tokens"):
        encoded(model, *model.task.given(["a film"]))
    with pytest.raises(ValueError, match="reads single texts"):
        model.task.given([("a", "b")])


def test_a_text_of_special_tokens_alone_has_nothing_to_hide(model: TorchModel):
    with pytest.raises(RecipeError, match="has no token that could be hidden"):
        encoded(model, "[UNK]")


def test_rows_without_a_token_to_hide_are_named(model: TorchModel):
    texts = ["a film", "[UNK]", "good", "[SEP]"]
    with pytest.raises(RecipeError) as caught:
        model.task.require_readable(model.preprocessor, texts, lambda row: f"row {row}")
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == ["row 1", "row 3"]


def test_a_vocabulary_without_english_words_is_exported_and_inspected(tmp_path: Path):
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGT")
    words = {piece: index for index, piece in enumerate(pieces)}
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, model_max_length=64, **dict(zip(names, pieces, strict=False))
    )
    save_masked_model(tmp_path, vocab_size=len(pieces))
    tokenizer.save_pretrained(tmp_path)
    assert inspect_checkpoint(str(tmp_path), timing=False).tokenizer is not None
    exported = export_onnx(load_checkpoint(tmp_path), tmp_path / "model.onnx", threads=1)
    batch = tokenizer(["A C [MASK] T", "G [MASK]"], padding=True, return_tensors="np")
    module = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = module(**{key: torch.from_numpy(value) for key, value in batch.items()}).logits
    own = batch["attention_mask"].astype(bool)
    found = exported.predict(dict(batch))
    assert found[own] == pytest.approx(expected.numpy()[own], abs=1e-4)


def test_a_tokenizer_without_a_mask_token_is_refused(model: TorchModel, tmp_path: Path):
    model.save(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(EnvironmentMismatch, match="its tokenizer has no mask token"):
        load_checkpoint(tmp_path / "model")


def test_rows_need_one_column_of_texts(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,title\na b,c\nd e,f\n")

    def read(**data: Any) -> Any:
        settings = DataSettings.model_validate({"search": {"path": tmp_path / "rows.csv"}, **data})
        columns = load_task("masked-language-modeling").columns("masked_accuracy")
        return load_splits(settings, label_names=(), columns=columns, needed=("search",), seed=0)

    assert read()["search"].examples == ("a b", "d e")
    with pytest.raises(RecipeError, match="reads single texts, and text and title are two"):
        read(text=["text", "title"])


def test_a_starter_finds_the_column_of_texts():
    columns = {"id": [1, 2], "body": ["a text of words", "another text of words"]}
    assert guess("texts", "rows.csv", columns, Asked()).inputs == ("body",)
    with pytest.raises(RecipeError, match="--label: a text says itself"):
        guess("texts", "rows.csv", columns, Asked(label="id"))


def test_a_trimmed_model_says_the_same_of_texts_that_keep_their_tokens(model: TorchModel):
    dropped = model.preprocessor.convert_tokens_to_ids(["brilliant", "terrible", "##ing"])
    kept = [index for index in range(len(model.preprocessor)) if index not in dropped]
    before = model.predict(encoded(model, *TEXTS))
    reference = scored("masked_agreement", model, TEXTS)
    trimmed = trim_vocabulary(model.clone(), kept)
    head = trimmed.module.get_output_embeddings()
    assert head.weight is trimmed.module.get_input_embeddings().weight
    assert head.bias is trimmed.module.cls.predictions.bias
    np.testing.assert_allclose(
        trimmed.predict(encoded(trimmed, *TEXTS)), before[..., kept], atol=1e-6
    )
    score = scored("masked_agreement", trimmed, TEXTS, reference=reference)
    gone = model.task.score("masked_agreement", _outputs(model), Truth(TEXTS))
    names = dict(zip(gone.kept["numbers"].tolist(), _words(gone), strict=True))
    lost = [names[token] in ("brilliant", "terrible", "##ing") for token in gone.kept["top"]]
    assert score.value == pytest.approx(1 - np.mean(lost))


def _words(score: Any) -> list[str]:
    return score.kept["words"].tobytes().decode().split("\0")


def test_a_pruned_checkpoint_holds_the_shared_table_once(model: TorchModel, tmp_path: Path):
    pruned = model.clone()
    encoder = find_encoder(pruned.module)
    remove_feed_forward(encoder.layers[0])
    pruned.save(tmp_path / "pruned")
    names = load_file(tmp_path / "pruned/model.safetensors").keys()
    assert "bert.embeddings.word_embeddings.weight" in names
    assert "cls.predictions.decoder.weight" not in names
    again = load_checkpoint(tmp_path / "pruned")
    head = again.module.get_output_embeddings()
    assert head.weight is again.module.get_input_embeddings().weight
    batch = encoded(model, *TEXTS)
    assert np.array_equal(again.predict(batch), pruned.predict(batch))
    assert not np.array_equal(again.predict(batch), model.predict(batch))


def training(tmp_path: Path) -> TrainingRun:
    return TrainingRun(torch.device("cpu"), 0, tmp_path, SILENT, "training")


def test_fine_tuning_learns_what_is_hidden(model: TorchModel, tmp_path: Path):
    texts = ("good film", "bad plot") * 16
    rows = Dataset("train", texts, np.zeros(32), np.arange(32), "generated")
    learner = model.clone()
    settings = FinetuneSettings(epochs=12, batch_size=8, learning_rate=3e-3)
    finetune(learner, rows, settings, training(tmp_path))
    before, after = (
        scored("pseudo_likelihood", each, ("good film", "bad plot")) for each in (model, learner)
    )
    assert after.value > max(0.3, 3 * before.value)


def test_distillation_lets_the_teacher_read_what_the_student_reads(
    model: TorchModel, tmp_path: Path
):
    rows = Dataset("train", TEXTS * 4, np.zeros(12), np.arange(12), "generated")
    read: dict[str, list[Any]] = {"student": [], "teacher": []}
    student, teacher = model.clone(), model.clone()
    for name, each in (("student", student), ("teacher", teacher)):
        each.module.register_forward_pre_hook(
            lambda _, args, kwargs, own=read[name]: own.append(kwargs["input_ids"].clone()),
            with_kwargs=True,
        )
    settings = DistillSettings(epochs=2, batch_size=4, learning_rate=1e-6, dropout=False)
    summary = distill(student, teacher, rows, settings, training(tmp_path))
    assert len(read["student"]) == len(read["teacher"]) == 6
    assert all(map(torch.equal, read["student"], read["teacher"]))
    assert summary.final_loss < 1e-3  # both are the same model


def test_a_teacher_with_another_vocabulary_is_refused(model: TorchModel):
    rows = Dataset("train", TEXTS, np.zeros(3), np.arange(3), "generated")
    trimmed = trim_vocabulary(model.clone(), list(range(len(model.preprocessor) - 1)))
    with pytest.raises(
        StepFailed, match="the student's vocabulary has 35 tokens, the teacher's 36"
    ):
        check_distillation(trimmed, model, rows, DistillSettings())


def test_a_thousand_texts_certify_the_likelihood_of_a_model_that_stayed(model: TorchModel):
    texts = texts_it_knows(model, 40)
    assert scored("masked_accuracy", model, texts).value == 1.0
    score = scored("pseudo_likelihood", model, texts)
    guesses = model.task.guesses(score, Truth(texts), ())

    def repeated(found: Score) -> Score:
        assert found.sums is not None
        return dataclasses.replace(found, sums=np.tile(found.sums, (25, 1)))

    known = [Guess(guess.who, repeated(guess.score)) for guess in guesses]
    whole = repeated(score)
    proof = certify_scores(whole, whole, None, guesses=known, max_drop=0.1, seed=0, resamples=999)
    assert proof.verdict == "certified"
    unknown = known[0].score
    ruined = certify_scores(
        whole, unknown, None, guesses=known, max_drop=0.1, seed=0, resamples=999
    )
    assert ruined.verdict == "refuted"
