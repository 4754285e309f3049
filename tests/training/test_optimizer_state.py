import dataclasses

import pytest
import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.training.optimizer_state import Moments
from compressor.training.recovery import finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun

SETTINGS = FinetuneSettings(max_steps=2, batch_size=8, schedule="constant", warmup_ratio=0)
LAYER = "bert.encoder.layer.1"


def part(run: TrainingRun, name: str) -> TrainingRun:
    return dataclasses.replace(run, work_dir=run.work_dir / name)


@pytest.fixture
def moments(tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun) -> Moments:
    """Return what two steps of training leave."""
    found = Moments()
    finetune(tiny_bert, text_dataset, SETTINGS, part(training_run, "first"), moments=found)
    return found


def values(moments: Moments, name: str) -> tuple[Tensor, Tensor]:
    found = moments.of(name)
    return found["exp_avg"].clone(), found["exp_avg_sq"].clone()


def test_moments_of_every_parameter_are_kept(tiny_bert: TorchModel, moments: Moments):
    for name, parameter in tiny_bert.module.named_parameters():
        found = moments.of(name)
        assert found["exp_avg"].shape == found["exp_avg_sq"].shape == parameter.shape
        assert found["step"] == 2
    assert moments.of(f"{LAYER}.attention.self.query.weight")["exp_avg"].abs().max() > 0


def test_moments_are_cut_like_the_weights_of_the_heads(tiny_bert: TorchModel, moments: Moments):
    query = values(moments, f"{LAYER}.attention.self.query.weight")
    bias = values(moments, f"{LAYER}.attention.self.value.bias")
    output = values(moments, f"{LAYER}.attention.output.dense.weight")
    other = values(moments, "bert.encoder.layer.0.attention.self.query.weight")

    prune_heads(tiny_bert.module, {1: [0, 2]})
    moments.follow(tiny_bert.module, {1: [0, 2]}, {})

    # Heads are 8 rows each; 1 and 3 are left.
    kept = [*range(8, 16), *range(24, 32)]
    for index, kind in enumerate(("exp_avg", "exp_avg_sq")):
        found = moments.of(f"{LAYER}.attention.self.query.weight")[kind]
        assert torch.equal(found, query[index][kept])
        assert torch.equal(
            moments.of(f"{LAYER}.attention.self.value.bias")[kind], bias[index][kept]
        )
        found = moments.of(f"{LAYER}.attention.output.dense.weight")[kind]
        assert torch.equal(found, output[index][:, kept])
        untouched = moments.of("bert.encoder.layer.0.attention.self.query.weight")[kind]
        assert torch.equal(untouched, other[index])
    assert moments.of(f"{LAYER}.attention.self.query.weight")["step"] == 2


def test_moments_are_cut_like_the_weights_of_the_neurons(tiny_bert: TorchModel, moments: Moments):
    inner = values(moments, f"{LAYER}.intermediate.dense.weight")
    bias = values(moments, f"{LAYER}.intermediate.dense.bias")
    outer = values(moments, f"{LAYER}.output.dense.weight")
    removed = list(range(1, 64, 2))

    prune_neurons(tiny_bert.module, {1: removed})
    moments.follow(tiny_bert.module, {}, {1: removed})

    for index, kind in enumerate(("exp_avg", "exp_avg_sq")):
        assert torch.equal(
            moments.of(f"{LAYER}.intermediate.dense.weight")[kind], inner[index][::2]
        )
        assert torch.equal(moments.of(f"{LAYER}.intermediate.dense.bias")[kind], bias[index][::2])
        assert torch.equal(moments.of(f"{LAYER}.output.dense.weight")[kind], outer[index][:, ::2])


def test_moments_of_a_sublayer_that_is_gone_go_too(tiny_bert: TorchModel, moments: Moments):
    everything = {1: [0, 1, 2, 3]}
    bias = values(moments, f"{LAYER}.attention.output.dense.bias")

    prune_heads(tiny_bert.module, everything)
    moments.follow(tiny_bert.module, everything, {})

    assert moments.of(f"{LAYER}.attention.self.query.weight") == {}
    assert moments.of(f"{LAYER}.attention.output.dense.weight") == {}
    # The bias of the output projection is all that stays of the sub-layer.
    assert torch.equal(moments.of(f"{LAYER}.attention.output.dense.bias")["exp_avg"], bias[0])


def test_every_moment_fits_its_parameter_after_pruning(tiny_bert: TorchModel, moments: Moments):
    heads, neurons = {0: [3], 1: [0, 1, 2, 3]}, {0: list(range(64)), 1: [0, 5, 9]}

    prune_heads(tiny_bert.module, heads)
    prune_neurons(tiny_bert.module, neurons)
    moments.follow(tiny_bert.module, heads, neurons)

    for name, parameter in tiny_bert.module.named_parameters():
        assert moments.of(name)["exp_avg"].shape == parameter.shape, name


def test_the_next_training_goes_on_like_one_optimizer(
    tiny_bert: TorchModel, moments: Moments, text_dataset: Dataset, training_run: TrainingRun
):
    for child in tiny_bert.module.modules():
        if isinstance(child, torch.nn.Dropout):
            child.p = 0.0
    heads = {1: [0, 2]}
    prune_heads(tiny_bert.module, heads)
    moments.follow(tiny_bert.module, heads, {})
    name = f"{LAYER}.attention.self.query.weight"
    weight = tiny_bert.module.get_parameter(name)
    before, (average, square) = weight.detach().clone(), values(moments, name)
    one_step = SETTINGS.model_copy(update={"max_steps": 1, "batch_size": 48})

    finetune(tiny_bert, text_dataset, one_step, part(training_run, "second"), moments=moments)

    # AdamW by hand, third step: the gradient follows from the first moment before and after.
    found = moments.of(name)
    gradient = (found["exp_avg"] - 0.9 * average) / 0.1
    torch.testing.assert_close(
        found["exp_avg_sq"], 0.999 * square + 0.001 * gradient**2, rtol=1e-3, atol=1e-12
    )
    corrected = found["exp_avg"] / (1 - 0.9**3)
    scale = (found["exp_avg_sq"] / (1 - 0.999**3)).sqrt() + 1e-8
    expected = before * (1 - 5e-5 * 0.01) - 5e-5 * corrected / scale
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-7)
    assert found["step"] == 3


def test_moments_of_a_finished_run_are_read_from_its_folder(
    tiny_bert: TorchModel, moments: Moments, text_dataset: Dataset, training_run: TrainingRun
):
    start = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    again = Moments()
    again.read(training_run.work_dir / "first", moments.key)
    finetune(tiny_bert, text_dataset, SETTINGS, part(training_run, "second"), moments=moments)
    expected = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    tiny_bert.module.load_state_dict(start)

    finetune(tiny_bert, text_dataset, SETTINGS, part(training_run, "third"), moments=again)

    found = tiny_bert.module.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_moments_are_kept_on_disk_for_the_latest_run_alone(
    tiny_bert: TorchModel, moments: Moments, text_dataset: Dataset, training_run: TrainingRun
):
    finetune(tiny_bert, text_dataset, SETTINGS, part(training_run, "second"), moments=moments)

    files = [path.relative_to(training_run.work_dir) for path in training_run.work_dir.rglob("m*")]
    assert [str(file) for file in files] == ["second/moments.safetensors"]


def test_moments_that_are_lost_are_not_replaced_by_none(
    tiny_bert: TorchModel, moments: Moments, text_dataset: Dataset, training_run: TrainingRun
):
    file = training_run.work_dir / "first" / "moments.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    found = Moments()
    found.read(file.parent, moments.key)

    with pytest.raises(ValueError, match="are missing or damaged; remove"):
        finetune(tiny_bert, text_dataset, SETTINGS, part(training_run, "second"), moments=found)
