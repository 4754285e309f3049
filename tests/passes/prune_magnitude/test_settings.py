import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.finetune.settings import Finetune
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.tasks import load_task
from compressor.training.settings import FinetuneSettings

# Two layers of four 32x32 projections, a 32x64 and a 64x32, and the pooler's 32x32.
ENCODER_WEIGHTS = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32
TRAINING = FinetuneSettings(epochs=2, batch_size=8, learning_rate=1e-2)


@pytest.fixture
def context(
    make_context: Callable[..., PassContext], tiny_bert_dir: Path, text_dataset: Dataset
) -> PassContext:
    return make_context(tiny_bert_dir, train=text_dataset)


def encoder_weights(model: TorchModel) -> dict[str, torch.Tensor]:
    state = model.module.state_dict()
    wanted = (".query.", ".key.", ".value.", ".dense.")
    return {
        name: value.clone()
        for name, value in state.items()
        if name.endswith("weight") and any(part in name for part in wanted)
    }


def zeros(weights: dict[str, torch.Tensor]) -> int:
    return sum(int((value == 0).sum()) for value in weights.values())


def test_exactly_the_asked_share_becomes_zero_and_the_rest_stays(
    tiny_bert: TorchModel, context: PassContext
):
    before = encoder_weights(tiny_bert)
    flat = torch.cat([value.abs().flatten() for value in before.values()])
    threshold = flat.sort().values[round(0.6 * ENCODER_WEIGHTS)]

    pruned = apply_pass(PruneMagnitude(sparsity=0.6), tiny_bert, context)

    after = encoder_weights(pruned)
    assert zeros(after) == round(0.6 * ENCODER_WEIGHTS)
    for name, value in after.items():
        assert torch.equal(value, before[name] * (before[name].abs() >= threshold))


def test_by_layer_every_weight_gets_the_same_sparsity(tiny_bert: TorchModel, context: PassContext):
    pruned = apply_pass(PruneMagnitude(sparsity=0.75, scope="layer"), tiny_bert, context)

    shares = [float((value == 0).float().mean()) for value in encoder_weights(pruned).values()]
    assert shares == [0.75] * 13


def test_head_and_embeddings_stay_whole(
    tiny_bert: TorchModel, tiny_bert_dir: Path, context: PassContext
):
    original = load_checkpoint(tiny_bert_dir).module

    pruned = apply_pass(PruneMagnitude(sparsity=0.9), tiny_bert, context).module

    assert torch.equal(pruned.classifier.weight, original.classifier.weight)
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(pruned.get_parameter(table), original.get_parameter(table))


def test_embeddings_are_pruned_when_asked(tiny_bert: TorchModel, context: PassContext):
    settings = PruneMagnitude(sparsity=0.5, scope="layer", include_embeddings=True)

    pruned = apply_pass(settings, tiny_bert, context).module

    table = pruned.get_parameter("bert.embeddings.word_embeddings.weight")
    assert int((table == 0).sum()) == round(0.5 * table.numel())


def test_zeros_hold_while_it_fine_tunes(tiny_bert: TorchModel, context: PassContext):
    before = encoder_weights(tiny_bert)
    one_shot = PruneMagnitude(sparsity=0.6)
    expected = encoder_weights(apply_pass(one_shot, tiny_bert.clone(), context))

    tuned = apply_pass(PruneMagnitude(sparsity=0.6, finetune=TRAINING), tiny_bert, context)

    after = encoder_weights(tuned)
    assert zeros(after) == round(0.6 * ENCODER_WEIGHTS)
    assert all(bool((after[name][expected[name] == 0] == 0).all()) for name in after)
    assert not any(torch.equal(after[name], expected[name]) for name in after)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert before.keys() == after.keys()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_cubic_schedule_ends_at_exactly_its_sparsity(
    tiny_bert: TorchModel, context: PassContext, scope: str
):
    settings = PruneMagnitude.model_validate(
        {"sparsity": 0.6, "schedule": "cubic", "scope": scope, "finetune": TRAINING}
    )

    pruned = apply_pass(settings, tiny_bert, context)

    weights = encoder_weights(pruned)
    share = sum(round(0.6 * value.numel()) for value in weights.values())
    assert zeros(weights) == (share if scope == "layer" else round(0.6 * ENCODER_WEIGHTS))


def test_the_cubic_schedule_lets_weights_move_before_it_chooses(
    tiny_bert: TorchModel, context: PassContext
):
    one_shot = encoder_weights(apply_pass(PruneMagnitude(sparsity=0.6), tiny_bert.clone(), context))

    gradual = encoder_weights(
        apply_pass(
            PruneMagnitude(sparsity=0.6, schedule="cubic", finetune=TRAINING), tiny_bert, context
        )
    )

    assert any(not torch.equal(gradual[name] == 0, one_shot[name] == 0) for name in gradual)


def test_the_report_counts_zeros_and_says_that_nothing_gets_faster(
    tiny_bert: TorchModel, context: PassContext, notes: list[str]
):
    total, nonzero = tiny_bert.parameter_counts()
    pruned = round(0.5 * ENCODER_WEIGHTS)
    already = total - nonzero  # biases start at zero
    # Zeros in the encoder's weights come from pruning alone.
    share = (already + pruned) / total

    apply_pass(PruneMagnitude(sparsity=0.5), tiny_bert, context)

    assert notes[0] == (
        f"{pruned:,} of {ENCODER_WEIGHTS:,} weights of the encoder are zero (50.0%), "
        f"{already + pruned:,} of all {total:,} parameters ({share:.1%})"
    )
    assert "not inference faster" in notes[1]


def test_a_pruned_file_compresses_better(
    tiny_bert: TorchModel, tiny_bert_dir: Path, context: PassContext, tmp_path: Path
):
    apply_pass(PruneMagnitude(sparsity=0.9), tiny_bert, context).save(tmp_path / "pruned")

    dense = len(gzip.compress((tiny_bert_dir / "model.safetensors").read_bytes()))
    sparse = len(gzip.compress((tmp_path / "pruned" / "model.safetensors").read_bytes()))
    assert sparse < 0.6 * dense


def test_images_are_pruned_too(tiny_vit: TorchModel, image_dataset: Dataset, context: PassContext):
    patches = tiny_vit.module.vit.embeddings.patch_embeddings.projection.weight.clone()

    pruned = apply_pass(PruneMagnitude(sparsity=0.5), tiny_vit, context).module

    assert torch.equal(pruned.vit.embeddings.patch_embeddings.projection.weight, patches)
    layers = pruned.vit.layers.state_dict().items()
    weights = {name: value for name, value in layers if value.ndim == 2}
    assert zeros(weights) == sum(value.numel() for value in weights.values()) / 2


def test_weights_that_are_not_finite_are_refused(tiny_bert: TorchModel, context: PassContext):
    with torch.no_grad():
        tiny_bert.module.bert.pooler.dense.weight[0, 0] = float("nan")

    with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.weight holds weights that are not"):
        apply_pass(PruneMagnitude(sparsity=0.5), tiny_bert, context)


def test_it_reads_the_training_split_only_to_train():
    assert PruneMagnitude(sparsity=0.5).required_splits() == frozenset()
    assert PruneMagnitude(sparsity=0.5, finetune=TRAINING).required_splits() == {"train"}


@pytest.mark.parametrize("sparsity", [0, 1, 1.5, -0.1, float("nan")])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity: float):
    with pytest.raises(ValidationError) as caught:
        PruneMagnitude(sparsity=sparsity)

    assert [error["loc"] for error in caught.value.errors()] == [("sparsity",)]


def test_the_cubic_schedule_without_training_is_refused():
    with pytest.raises(ValidationError, match="add finetune"):
        PruneMagnitude(sparsity=0.5, schedule="cubic")


def test_a_ramp_without_the_cubic_schedule_is_refused():
    with pytest.raises(ValidationError, match="ramp_ratio belongs to schedule 'cubic'"):
        PruneMagnitude(sparsity=0.5, ramp_ratio=0.5)


def test_settings_of_fine_tuning_are_its_own():
    nested = PruneMagnitude.model_validate({"sparsity": 0.5, "finetune": {"max_steps": 3}})

    assert nested.finetune == FinetuneSettings(max_steps=3)
    assert not isinstance(nested.finetune, Finetune)


def groups_kept(matrix: np.ndarray) -> set[int]:
    """Return how many of four neighbouring inputs are left, of `(inputs, outputs)`."""
    groups = matrix.reshape(-1, 4, matrix.shape[1])
    return set(np.count_nonzero(groups, axis=1).ravel().tolist())


def test_two_of_four_inputs_stay_also_in_the_graph_and_after_training(
    tiny_bert: TorchModel, context: PassContext, tmp_path: Path, notes: list[str]
):
    settings = PruneMagnitude.model_validate({"pattern": "2:4", "finetune": TRAINING})
    before = encoder_weights(tiny_bert)

    pruned = apply_pass(settings, tiny_bert, context)

    after = encoder_weights(pruned)
    assert {name: groups_kept(value.T.numpy()) for name, value in after.items()} == {
        name: {2} for name in before
    }
    assert any("sparse tensor cores" in note for note in notes)
    assert f"{ENCODER_WEIGHTS // 2:,} of {ENCODER_WEIGHTS:,} weights" in notes[1]
    graph = onnx.load(export_onnx(pruned, tmp_path / "sparse.onnx", threads=1).path)
    weights = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    # (inputs, outputs): a matmul's weight is transposed.
    names = {node.input[1] for node in graph.graph.node if node.op_type == "MatMul"}
    found = [weights[name] for name in sorted(names & set(weights))]
    assert {matrix.shape for matrix in found} == {(32, 96), (32, 32), (32, 64), (64, 32)}
    assert [groups_kept(matrix) for matrix in found] == [{2}] * len(found)


def test_a_pattern_has_one_sparsity_which_can_be_left_out():
    step = PruneMagnitude.model_validate({"pattern": "2:4"})

    assert step.sparsity == 0.5
    assert list(step.milder()) == []
    assert step.at_share(0.5) is None
    trained = PruneMagnitude.model_validate({"pattern": "2:4", "finetune": {"epochs": 1}})
    assert [each.finetune.epochs for each in trained.milder()] == [2, 4]
    assert {each.sparsity for each in trained.milder()} == {0.5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sparsity": 0.6}, "half of the weights to zero, got sparsity 0.6; leave sparsity out"),
        ({"scope": "layer"}, "so scope: layer would do nothing; remove it"),
        ({"schedule": "cubic", "finetune": {}}, "so schedule: cubic would do nothing"),
        ({"include_embeddings": True}, "so include_embeddings: true would do nothing"),
    ],
)
def test_what_a_pattern_does_not_read_is_refused(given: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        PruneMagnitude.model_validate({"pattern": "2:4", **given})


def test_a_matrix_whose_inputs_are_no_groups_is_refused_before_anything_runs(
    tiny_bert: TorchModel, context: PassContext
):
    dense = tiny_bert.module.bert.encoder.layer[0].output.dense
    dense.weight = torch.nn.Parameter(torch.ones(32, 62))
    step = PruneMagnitude.model_validate({"pattern": "2:4"})

    with pytest.raises(ValueError, match=r"layer\.0\.output\.dense\.weight has 62 inputs, which"):
        apply_pass(step, tiny_bert, context)


def test_settings_of_before_are_written_as_before():
    step = PruneMagnitude(sparsity=0.5)

    assert set(step.settings) == {
        "sparsity",
        "scope",
        "schedule",
        "ramp_ratio",
        "include_embeddings",
        "finetune",
    }
    measured = PruneMagnitude(sparsity=0.5, importance="taylor", calibration_rows=64).settings
    assert measured["importance"] == "taylor"
    assert measured["calibration_rows"] == 64


def test_measured_importance_reads_the_calibration_split_and_says_what_it_needs():
    step = PruneMagnitude(sparsity=0.5, importance="mutual_information", calibration_rows=100)

    assert step.required_splits() == {"calibration"}
    assert step.calibration_rows_wanted() == 100
    assert step.calibration_label_setting == "importance"
    [(setting, why)] = step.unfit_rows({"calibration": 15})
    assert (setting, "15 calibration rows are too few" in why) == ("importance", True)
    [(setting, why)] = step.unfit_for(load_task("text-scoring"))
    assert (setting, "those of text-scoring are not" in why) == ("importance", True)
    taylor = PruneMagnitude(sparsity=0.5, importance="taylor")
    assert [key for key, _ in taylor.unfit_for(load_task("sentence-embedding"))] == ["importance"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"calibration_rows": 9}, "calibration_rows would do nothing with importance magnitude"),
        (
            {"importance": "entropy", "include_embeddings": True},
            "embeddings read numbers of words; leave include_embeddings out",
        ),
    ],
)
def test_what_an_importance_does_not_read_is_refused(given: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        PruneMagnitude.model_validate({"sparsity": 0.5, **given})
