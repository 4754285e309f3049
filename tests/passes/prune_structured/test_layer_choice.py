from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneByScores, PruneStructured
from compressor.progress import SILENT
from compressor.tasks import load_task


@pytest.fixture
def deep_vit(tiny_vit: TorchModel) -> TorchModel:
    """Return a ViT of six layers, of which 1 and 4 hardly change anything."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        initializer_range=0.3,
    )
    module = transformers.ViTForImageClassification(config).eval()
    for index in (1, 4):
        for name in ("attention.o_proj", "mlp.fc2"):
            module.vit.layers[index].get_submodule(name).weight.data.mul_(1e-3)
    return TorchModel(module, tiny_vit.preprocessor, load_task("image-classification"))


def apply(settings: PruneStructured, model: TorchModel, tmp_path: Path, data: Dataset) -> list[str]:
    notes: list[str] = []
    context = PassContext(
        splits=dict.fromkeys(settings.required_splits(), data),
        load_baseline=lambda: model,
        device=torch.device("cpu"),
        seed=0,
        work_dir=tmp_path,
        progress=SILENT,
        note=notes.append,
    )
    apply_pass(settings, model, context)
    return notes


@pytest.mark.parametrize(
    ("choice", "stay"),
    [
        ("last", [0, 1, 2]),
        ("every_other", [1, 3, 5]),
    ],
)
def test_layers_chosen_by_their_place_need_no_data(
    deep_vit: TorchModel, tmp_path: Path, image_dataset: Dataset, choice: Any, stay: list[int]
):
    layers = list(deep_vit.module.vit.layers)
    settings = PruneByScores(layers=3, layer_choice=choice)
    assert settings.required_splits() == frozenset()

    notes = apply(settings, deep_vit, tmp_path, image_dataset)

    assert list(deep_vit.module.vit.layers) == [layers[index] for index in stay]
    listed = ", ".join(map(str, stay))
    assert notes == [f"layers 6 -> 3 (those that stay, counted from 0: {listed})"]


def test_the_layers_that_turn_the_hidden_states_least_go_without_labels(
    deep_vit: TorchModel, tmp_path: Path, image_dataset: Dataset
):
    layers = list(deep_vit.module.vit.layers)
    settings = PruneByScores(layers=4, layer_choice="block_influence")
    assert settings.required_splits() == {"calibration"}
    unlabelled = Dataset(
        "calibration", image_dataset.examples, None, image_dataset.rows, image_dataset.source
    )

    notes = apply(settings, deep_vit, tmp_path, unlabelled)

    assert list(deep_vit.module.vit.layers) == [layers[index] for index in (0, 2, 3, 5)]
    assert notes[0].startswith("block influence by layer: 0.")
    assert len(notes[0].split(", ")) == 6


@pytest.mark.parametrize("choice", ["loss", "last", "every_other", "block_influence"])
def test_no_choice_of_layers_keeps_as_many_as_there_are(
    deep_vit: TorchModel, tmp_path: Path, image_dataset: Dataset, choice: Any
):
    settings = PruneByScores(layers=6, layer_choice=choice)
    with pytest.raises(ValueError, match="layers: the model has 6 layers, so fewer have to stay"):
        apply(settings, deep_vit, tmp_path, image_dataset)
    assert len(deep_vit.module.vit.layers) == 6


@pytest.mark.parametrize("choice", ["last", "every_other", "block_influence", "loss"])
def test_a_first_layer_that_has_to_stay_is_never_chosen_to_go(
    make_encoder, tiny_bert: TorchModel, tmp_path: Path, choice: Any
):
    module = make_encoder("modernbert", num_hidden_layers=3, num_labels=2).module
    first = module.model.layers[0]
    tiny_bert.preprocessor.model_input_names = ["input_ids", "attention_mask"]
    model = TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)
    data = Dataset("calibration", ["good film", "a dull story"], None, (0, 1), "rows")
    settings = PruneByScores.model_validate({"layers": 1, "layer_choice": choice})
    apply(settings, model, tmp_path, data)
    assert list(module.model.layers) == [first]
