from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import numpy_helper
from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import nn

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.onnx_graph.activation_ranges import static_scale
from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint, TokenScale
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneByScores
from compressor.passes.quantize.settings import QuantizeDynamic, QuantizeStatic
from compressor.passes.quantize_aware_train.apply import _Freezer
from compressor.passes.quantize_aware_train.fake_quantize import simulated_int8
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain

SHORT = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "min_elements": 512,
    "keep_if_worse": True,
}


@pytest.fixture
def context(
    make_context: Callable[..., PassContext], tiny_bert_dir: Path, text_dataset: Dataset
) -> PassContext:
    return make_context(tiny_bert_dir, train=text_dataset, calibration=text_dataset)


def to_int8(model: TorchModel, context: PassContext, directory: Path) -> OnnxModel:
    exported = export_onnx(model, directory / "exported.onnx", threads=1)
    return apply_pass(QuantizeDynamic(min_elements=512), exported, context)


def logits(predictor: TorchModel | OnnxModel, model: TorchModel, dataset: Dataset) -> np.ndarray:
    return predictor.predict(model.task.encode(model.preprocessor, dataset.examples))


def test_training_comes_nearer_to_the_float_predictions_than_rounding(
    tiny_bert: TorchModel, context: PassContext, notes: list[str]
):
    settings = QuantizeAwareTrain(**SHORT | {"epochs": 10, "learning_rate": 3e-5})
    apply_pass(settings, tiny_bert, context)
    answers = context.facts["int8_answers"]
    assert answers["after"]["logit_rms"] < 0.9 * answers["before"]["logit_rms"]
    assert any("predictions that differ from the float model's" in note for note in notes)


def test_a_training_that_came_no_nearer_is_undone_and_told(
    tiny_bert: TorchModel, context: PassContext, notes: list[str]
):
    before = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    settings = QuantizeAwareTrain(**SHORT | {"learning_rate": 0.1, "keep_if_worse": False})
    trained = apply_pass(settings, tiny_bert, context)
    answers = context.facts["int8_answers"]
    assert not answers["kept"]
    assert answers["after"]["logit_rms"] > answers["before"]["logit_rms"]
    assert any(note.startswith("There was nothing to recover") for note in notes)
    after = trained.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_four_bits_begin_nearer_where_gptq_rounds_them(tiny_bert: TorchModel, context: PassContext):
    short = SHORT | {"epochs": 0.1, "learning_rate": 1e-9, "matrices": "int4", "matrix_block": 16}
    begun = {}
    for rounding in ("nearest", "gptq"):
        apply_pass(QuantizeAwareTrain(**short, rounding=rounding), tiny_bert.clone(), context)
        begun[rounding] = context.facts.pop("int8_answers")["before"]["logit_rms"]
    assert begun["gptq"] < 0.8 * begun["nearest"]


def test_rounding_of_matrices_in_eight_bits_is_refused():
    with pytest.raises(ValidationError, match="rounding: gptq is for matrices in four bits"):
        QuantizeAwareTrain(rounding="gptq")
    assert "rounding" not in QuantizeAwareTrain().model_dump()


def test_the_int8_file_computes_what_was_simulated_with_the_integers_that_were_trained(
    tiny_bert: TorchModel, context: PassContext, text_dataset: Dataset, tmp_path: Path
):
    wanted = logits(tiny_bert, tiny_bert, text_dataset)
    trained = apply_pass(QuantizeAwareTrain(**SHORT), tiny_bert, context)
    file = to_int8(trained, context, tmp_path)
    error = logits(file, trained, text_dataset) - wanted
    # The measurement after the training saw the same rows, in float sums of another order. An
    # activation that lies between two integers may then round the other way: one step of 1 / 127.
    assert np.sqrt(np.mean(error**2)) == pytest.approx(
        context.facts["int8_answers"]["after"]["logit_rms"], rel=0.05
    )

    weight = trained.module.bert.encoder.layer[1].output.dense.weight.detach().numpy().T
    stored = {
        item.name: numpy_helper.to_array(item) for item in onnx.load(file.path).graph.initializer
    }
    [name] = [name for name in stored if "layer.1.output.dense.weight" in name and "int8" in name]
    scales = stored[name.replace("_int8", "_scale")]
    assert max_pair_sum(stored[name]) <= 128
    np.testing.assert_allclose(stored[name] * scales, weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_the_static_file_computes_what_was_simulated(
    method: str, tiny_bert: TorchModel, context: PassContext, text_dataset: Dataset, tmp_path: Path
):
    wanted = logits(tiny_bert, tiny_bert, text_dataset)
    settings = QuantizeAwareTrain(**SHORT, activations="static", method=method)
    trained = apply_pass(settings, tiny_bert, context)
    exported = export_onnx(trained, tmp_path / "exported.onnx", threads=1)
    file = apply_pass(QuantizeStatic(min_elements=512, method=method), exported, context)
    error = logits(file, trained, text_dataset) - wanted
    # Scales are observed anew, in float sums of another order; see above for the rest.
    assert np.sqrt(np.mean(error**2)) == pytest.approx(
        context.facts["int8_answers"]["after"]["logit_rms"], rel=0.05
    )


def test_int4_tables_are_stored_as_they_were_trained_for(
    tiny_bert: TorchModel, context: PassContext, text_dataset: Dataset, tmp_path: Path
):
    settings = QuantizeAwareTrain(**SHORT, embeddings="int4", embedding_block=16)
    trained = apply_pass(settings, tiny_bert, context)
    exported = export_onnx(trained, tmp_path / "exported.onnx", threads=1)
    found, size = {}, {}
    for tables in ("int4", False):
        lent = replace(context, work_dir=tmp_path / str(tables))
        storing = QuantizeDynamic(min_elements=512, embeddings=tables, embedding_block=16)
        file = apply_pass(storing, exported, lent)
        found[tables] = logits(file, trained, text_dataset)
        size[tables] = file.size().bytes_on_disk
    # The table is of multiples of a scale in four bits, so storing it so changes nothing.
    np.testing.assert_allclose(found["int4"], found[False], atol=1e-5)
    assert size["int4"] < size[False]


def test_a_killed_training_with_fixed_scales_goes_on_with_the_same_ones(
    tiny_bert: TorchModel,
) -> None:
    def observe() -> None:
        for each in simulated.inputs.values():
            each.watch()
        tiny_bert.module(input_ids=torch.tensor([[2, 5, 6, 3]]))
        for each in simulated.inputs.values():
            each.fix(lambda seen: static_scale(seen, "minmax"))

    with simulated_int8(tiny_bert.module, min_elements=512) as simulated:
        freezer = _Freezer(simulated, 0.5, observe)
        freezer(1, 4)
        assert all(isinstance(each.scale, TokenScale) for each in simulated.inputs.values())
        freezer(2, 4)
        scales = [each.scale for each in simulated.inputs.values()]
        assert all(isinstance(scale, ScaleAndZeroPoint) for scale in scales)
        state = freezer.state_dict()
        for each in simulated.inputs.values():
            each.scale = ScaleAndZeroPoint(1.0, 0)
        _Freezer(simulated, 0.5, observe).load_state_dict(state)
        assert [each.scale for each in simulated.inputs.values()] == scales
        assert not any(each.log_factor.requires_grad for each in simulated.weights)


def test_the_result_is_an_ordinary_model_that_saves_and_loads(
    tiny_bert: TorchModel, context: PassContext, text_dataset: Dataset, tmp_path: Path
):
    probabilities = [part.p for part in tiny_bert.module.modules() if isinstance(part, nn.Dropout)]
    trained = apply_pass(QuantizeAwareTrain(**SHORT), tiny_bert, context)
    assert [
        part.p for part in trained.module.modules() if isinstance(part, nn.Dropout)
    ] == probabilities
    trained.save(tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    np.testing.assert_array_equal(
        logits(loaded, loaded, text_dataset), logits(trained, trained, text_dataset)
    )


def test_a_pruned_model_can_be_trained_for_int8(
    tiny_bert: TorchModel, context: PassContext, text_dataset: Dataset, tmp_path: Path
):
    pruned = apply_pass(PruneByScores(ratio=0.5, importance="magnitude"), tiny_bert, context)
    trained = apply_pass(QuantizeAwareTrain(**SHORT), pruned, context)
    file = to_int8(trained, context, tmp_path)
    found, wanted = logits(file, trained, text_dataset), logits(trained, trained, text_dataset)
    np.testing.assert_allclose(found, wanted, atol=0.1 * np.abs(wanted).max())


def test_the_untouched_checkpoint_can_be_the_teacher(
    tiny_bert: TorchModel, context: PassContext, text_dataset: Dataset
):
    goal = logits(tiny_bert, tiny_bert, text_dataset)
    with torch.no_grad():
        tiny_bert.module.classifier.weight.mul_(-0.5)
    before = np.square(logits(tiny_bert, tiny_bert, text_dataset) - goal).mean()
    settings = QuantizeAwareTrain(**SHORT | {"epochs": 10, "teacher": "baseline"})
    trained = apply_pass(settings, tiny_bert, context)
    assert np.square(logits(trained, trained, text_dataset) - goal).mean() < before / 2


def test_an_image_classifier_without_tables_can_be_trained(
    tiny_vit: TorchModel, image_dataset: Dataset, context: PassContext
):
    context.splits.update(train=image_dataset, calibration=image_dataset)
    trained = apply_pass(QuantizeAwareTrain(**SHORT), tiny_vit, context)
    assert np.isfinite(logits(trained, trained, image_dataset)).all()


def test_an_empty_calibration_split_is_refused_before_training(
    tiny_bert: TorchModel, text_dataset: Dataset, context: PassContext
):
    empty = replace(text_dataset, examples=(), labels=None, rows=np.arange(0))
    context.splits["calibration"] = empty
    with pytest.raises(ValueError, match="calibration split, and it is empty"):
        apply_pass(QuantizeAwareTrain(**SHORT), tiny_bert, context)


def test_a_teacher_reads_its_own_tokens_and_names_its_own_labels(
    tiny_bert: TorchModel, context: PassContext
):
    """After other numbers of words and of labels, the predictions by name are what they were."""
    content = json.loads(tiny_bert.preprocessor.backend_tokenizer.to_str())
    words = content["model"]["vocab"]
    good, dull = words["good"], words["dull"]
    words["good"], words["dull"] = dull, good
    tiny_bert.preprocessor._tokenizer = Tokenizer.from_str(json.dumps(content))
    table = tiny_bert.module.get_input_embeddings().weight
    swapped = [1, 0]
    classifier = tiny_bert.module.classifier
    with torch.no_grad():
        classifier.weight.copy_(classifier.weight[swapped])
        classifier.bias.copy_(classifier.bias[swapped])
        table[[good, dull]] = table[[dull, good]]
    labels = tiny_bert.labels
    tiny_bert.module.config.id2label = {0: labels[1], 1: labels[0]}
    settings = QuantizeAwareTrain(
        teacher="baseline", hidden_weight=0, max_steps=1, min_elements=10**9, learning_rate=1e-9
    )

    apply_pass(settings, tiny_bert, context)

    before = context.facts["int8_answers"]["before"]
    assert before["changed"] == 0
    assert before["logit_rms"] == pytest.approx(0, abs=1e-5)


def test_the_int8_file_of_a_model_that_cannot_be_pruned_computes_what_was_simulated(
    make_context: Callable[..., PassContext],
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    tmp_path: Path,
):
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 4}
    config = transformers.AlbertConfig(
        vocab_size=36, num_hidden_layers=2, intermediate_size=64, initializer_range=0.3, **sizes
    )
    transformers.AlbertForSequenceClassification(config).save_pretrained(tmp_path / "albert")
    for path in tiny_bert_dir.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "albert")
    model = load_checkpoint(tmp_path / "albert")
    context = make_context(tmp_path / "albert", train=text_dataset, calibration=text_dataset)
    before = logits(model, model, text_dataset)

    trained = apply_pass(QuantizeAwareTrain(**SHORT), model, context)
    error = logits(to_int8(trained, context, tmp_path), trained, text_dataset) - before

    assert np.sqrt(np.mean(error**2)) == pytest.approx(
        context.facts["int8_answers"]["after"]["logit_rms"], rel=0.05
    )
