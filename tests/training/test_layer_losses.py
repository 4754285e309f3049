"""The losses on layers, compared with NumPy that reads one example at a time, without padding."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from scipy.special import erf, log_softmax, softmax
from torch import nn

from compressor.data import Dataset
from compressor.models.families.layers import find_encoder
from compressor.models.structure import keep_layers
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.progress import Advance, Silent
from compressor.training.activation_hooks import relation_pairs
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import distill
from compressor.training.training_run import TrainingRun

Array = NDArray[np.float64]
ONE_STEP = {"logits_weight": 0.0, "max_steps": 1, "batch_size": 48}


@pytest.fixture
def teacher(tiny_bert_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_bert_dir)


@pytest.fixture
def student(tiny_bert_dir: Path) -> TorchModel:
    """Return the teacher with noise in its encoder, and without dropout."""
    student = load_checkpoint(tiny_bert_dir)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in student.module.named_parameters():
            if "encoder" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    for child in student.module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    return student


@pytest.fixture
def narrow_student(tiny_bert: TorchModel) -> TorchModel:
    """Return a student of another width, number of heads and depth, without dropout."""
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=tiny_bert.module.config.vocab_size,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
        initializer_range=0.3,
    )
    module = transformers.BertForSequenceClassification(config).eval()
    return TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


class StoppingProgress(Silent):
    """Stops a run after its second step."""

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        steps = iter(range(2))

        def advance(amount: int = 1, detail: str = "") -> None:
            if next(steps) == 1:
                raise Stopped

        yield advance


def linear(part: nn.Linear, states: Array) -> Array:
    return states @ part.weight.detach().double().numpy().T + part.bias.detach().double().numpy()


def hidden_states(model: TorchModel, text: str) -> list[Array]:
    """Return what enters each layer, and what leaves the last, for one text: (tokens, width)."""
    encoded = model.task.encode(model.preprocessor, [text])
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    with torch.no_grad():
        states = model.module(**inputs, output_hidden_states=True).hidden_states
    return [state[0].double().numpy() for state in states]


def attention_output(model: TorchModel, index: int, states: Array) -> Array:
    """Return what the attention of a layer adds to its input."""
    own = model.module.bert.encoder.layer[index].attention
    heads = own.self.num_attention_heads
    query, key, value = (
        linear(part, states).reshape(len(states), heads, -1).swapaxes(0, 1)
        for part in (own.self.query, own.self.key, own.self.value)
    )
    weights = softmax(query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]), axis=-1)
    return linear(own.output.dense, (weights @ value).swapaxes(0, 1).reshape(len(states), -1))


def ffn_output(model: TorchModel, index: int, states: Array, attended: Array) -> Array:
    """Return what the feed-forward network of a layer adds."""
    own = model.module.bert.encoder.layer[index]
    norm = own.attention.output.LayerNorm
    total = states + attended
    total = (total - total.mean(-1, keepdims=True)) / np.sqrt(
        total.var(-1, keepdims=True) + norm.eps
    )
    total = total * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    inner = linear(own.intermediate.dense, total)
    return linear(own.output.dense, inner * (1 + erf(inner / np.sqrt(2))) / 2)


def sublayers(model: TorchModel, index: int, dataset: Dataset) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {"attention": [], "ffn": []}
    for text in dataset.examples:
        states = hidden_states(model, str(text))[index]
        attended = attention_output(model, index, states)
        found["attention"].append(attended)
        found["ffn"].append(ffn_output(model, index, states, attended))
    return found


def relative_error(student: list[Array], teacher: list[Array]) -> float:
    own, other = np.concatenate(student), np.concatenate(teacher)
    return float(((own - other) ** 2).sum() / (other**2).sum())


def relations(model: TorchModel, name: str, layer: int, text: str, heads: int) -> Array:
    """Return the logarithms of the relations, shape `(heads, tokens, tokens)`."""
    states = hidden_states(model, text)[layer]
    part = getattr(model.module.bert.encoder.layer[layer].attention.self, name)
    parts = linear(part, states).reshape(len(states), heads, -1).swapaxes(0, 1)
    found: Array = log_softmax(parts @ parts.swapaxes(1, 2) / np.sqrt(parts.shape[-1]), axis=-1)
    return found


def relation_kl(
    student: TorchModel,
    teacher: TorchModel,
    names: list[str],
    layers: tuple[int, int],
    heads: int,
    dataset: Dataset,
) -> float:
    total = 0.0
    for name in names:
        rows = []
        for text in dataset.examples:
            own = relations(student, name, layers[0], str(text), heads)
            other = relations(teacher, name, layers[1], str(text), heads)
            rows.append((np.exp(other) * (other - own)).sum(-1).mean(0))
        total += float(np.concatenate(rows).mean())
    return total


def test_sublayer_loss_is_the_mean_relative_error_of_what_each_sublayer_adds(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    own = [sublayers(student, index, text_dataset) for index in (0, 1)]
    other = [sublayers(teacher, index, text_dataset) for index in (0, 1)]
    expected = np.mean(
        [relative_error(own[i][kind], other[i][kind]) for i in (0, 1) for kind in own[i]]
    )

    settings = DistillSettings(sublayer_weight=2.0, **ONE_STEP)
    found = distill(student, teacher, text_dataset, settings, training_run).final_loss

    assert found == pytest.approx(2 * expected, rel=1e-4)


def test_sublayers_and_layers_that_were_pruned_away_are_left_out(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    keep_layers(find_encoder(student.module), [1])
    prune_heads(find_encoder(student.module), {0: [0, 1, 2, 3]})
    prune_neurons(find_encoder(student.module), {0: list(range(10))})
    other = sublayers(teacher, 1, text_dataset)["ffn"]
    own = []
    output = student.module.bert.encoder.layer[0].output.dense
    handle = output.register_forward_hook(lambda *call: own.append(call[2][0].double().numpy()))
    with torch.no_grad():
        for text in text_dataset.examples:
            encoded = student.task.encode(student.preprocessor, [text])
            student.module(**{name: torch.from_numpy(value) for name, value in encoded.items()})
    handle.remove()

    settings = DistillSettings(sublayer_weight=1.0, **ONE_STEP)
    found = distill(
        student, teacher, text_dataset, settings, training_run, layer_map=[(0, 1)]
    ).final_loss

    assert found == pytest.approx(relative_error(own, other), rel=1e-4)


def test_relation_loss_is_the_kl_of_the_relations_of_the_last_layers(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    expected = relation_kl(student, teacher, ["query", "key", "value"], (1, 1), 4, text_dataset)

    settings = DistillSettings(relation_weight=3.0, **ONE_STEP)
    found = distill(student, teacher, text_dataset, settings, training_run).final_loss

    assert found == pytest.approx(3 * expected, rel=1e-4)
    assert expected > 0.01


def test_a_student_of_another_shape_learns_the_relations_of_a_chosen_layer(
    narrow_student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    expected = relation_kl(narrow_student, teacher, ["value"], (2, 0), 8, text_dataset)

    settings = DistillSettings(
        relation_weight=1.0, relation_heads=8, relation_layer=0, relations=("values",), **ONE_STEP
    )
    found = distill(narrow_student, teacher, text_dataset, settings, training_run).final_loss

    assert found == pytest.approx(expected, rel=1e-4)


def test_relations_are_learnt(
    narrow_student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    unlabelled = dataclasses.replace(text_dataset, labels=None)
    names = ["query", "key", "value"]
    before = relation_kl(narrow_student, teacher, names, (2, 1), 4, text_dataset)
    settings = DistillSettings(
        relation_weight=1.0,
        logits_weight=0.0,
        relation_heads=4,
        epochs=20,
        batch_size=8,
        learning_rate=2e-3,
    )

    distill(narrow_student, teacher, unlabelled, settings, training_run)

    assert relation_kl(narrow_student, teacher, names, (2, 1), 4, text_dataset) < 0.7 * before


def test_hidden_states_of_a_narrower_student_are_compared_through_a_learnt_map(
    narrow_student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    names = set(narrow_student.module.state_dict())
    common = {"hidden_weight": 1.0, "logits_weight": 0.0, "batch_size": 8}
    first = DistillSettings(max_steps=1, **common)
    many = DistillSettings(epochs=25, learning_rate=3e-3, **common)

    before = distill(narrow_student, teacher, text_dataset, first, training_run).final_loss
    after = distill(narrow_student, teacher, text_dataset, many, training_run).final_loss

    # 24 directions cannot hold all that 32 do, so the error does not go to zero.
    assert after < before / 3
    assert set(narrow_student.module.state_dict()) == names


def test_the_learnt_map_is_kept_where_training_is_stopped(
    tiny_bert_dir: Path,
    narrow_student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    start = {name: value.clone() for name, value in narrow_student.module.state_dict().items()}
    settings = DistillSettings(hidden_weight=1.0, max_steps=4, batch_size=8)
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0)
    stopping = dataclasses.replace(run, progress=StoppingProgress())

    with pytest.raises(Stopped):
        distill(narrow_student, teacher, text_dataset, settings, stopping)
    narrow_student.module.load_state_dict(start)
    resumed = distill(narrow_student, teacher, text_dataset, settings, run)
    found = {name: value.clone() for name, value in narrow_student.module.state_dict().items()}
    narrow_student.module.load_state_dict(start)
    elsewhere = dataclasses.replace(run, work_dir=run.work_dir / "undisturbed")
    undisturbed = distill(narrow_student, teacher, text_dataset, settings, elsewhere)

    assert resumed.final_loss == undisturbed.final_loss
    assert all(
        torch.equal(value, found[name])
        for name, value in narrow_student.module.state_dict().items()
    )


def test_a_teacher_whose_inputs_have_other_names_reads_the_same_rows(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    config = transformers.DistilBertConfig(
        vocab_size=tiny_bert.module.config.vocab_size,
        dim=32,
        n_layers=1,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    tokenizer = load_checkpoint(tiny_bert.module.config._name_or_path).preprocessor
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    module = transformers.DistilBertForSequenceClassification(config).eval()
    student = TorchModel(module, tokenizer, tiny_bert.task)
    settings = DistillSettings(
        hidden_weight=1.0,
        sublayer_weight=1.0,
        relation_weight=1.0,
        attention_weight=1.0,
        max_steps=2,
        batch_size=8,
    )

    assert np.isfinite(distill(student, teacher, text_dataset, settings, training_run).final_loss)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"hidden_weight": 1.0}, r"student is wider: 32 .* the teacher has 24"),
        ({"sublayer_weight": 1.0}, r"student's sub-layers give 32 and the teacher's 24"),
        (
            {"relation_weight": 1.0, "relation_heads": 5},
            r"relation_heads: 5 parts do not divide the student's .* 32 wide",
        ),
        (
            {"relation_weight": 1.0, "relation_layer": 3},
            r"relation_layer: the teacher has layers 0 to 2, got 3",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(
    weights: dict[str, float],
    message: str,
    student: TorchModel,
    narrow_student: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    settings = DistillSettings(max_steps=1, **weights)

    with pytest.raises(ValueError, match=message):
        distill(
            student,
            narrow_student,
            text_dataset,
            settings,
            training_run,
            layer_map=[(0, 0), (1, 2)],
        )
    assert not training_run.work_dir.exists()


def test_a_student_without_any_head_has_no_relations(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    prune_heads(find_encoder(student.module), {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]})
    settings = DistillSettings(relation_weight=1.0)

    with pytest.raises(ValueError, match="every layer of the student lost all its attention heads"):
        distill(student, teacher, text_dataset, settings, training_run)


def test_a_student_without_any_sublayer_of_the_teacher_is_refused(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    everything = {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}
    prune_heads(find_encoder(student.module), everything)
    prune_neurons(find_encoder(student.module), {0: list(range(64)), 1: list(range(64))})
    settings = DistillSettings(sublayer_weight=1.0)

    with pytest.raises(ValueError, match="of the 2 pairs of layers none has attention or"):
        distill(student, teacher, text_dataset, settings, training_run)


def test_an_architecture_whose_attention_is_not_known_is_refused(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    student.module.config.is_decoder = True
    settings = DistillSettings(relation_weight=1.0)

    with pytest.raises(
        ValueError, match="relation_weight: where the attention of model type 'bert'"
    ):
        distill(student, teacher, text_dataset, settings, training_run)


def test_no_hook_is_left_behind(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    settings = DistillSettings(sublayer_weight=1.0, relation_weight=1.0, **ONE_STEP)

    distill(student, teacher, text_dataset, settings, training_run)

    modules = [*student.module.modules(), *teacher.module.modules()]
    assert not any(isinstance(each, nn.Linear) and each._forward_hooks for each in modules)


def test_queries_keys_and_values_of_one_matrix_have_no_relations(make_encoder, teacher: TorchModel):
    packed = TorchModel(make_encoder("modernbert").module, teacher.preprocessor, teacher.task)
    with pytest.raises(ValueError, match="come from one matrix in the student"):
        relation_pairs(packed, teacher, DistillSettings(relation_weight=1.0))
