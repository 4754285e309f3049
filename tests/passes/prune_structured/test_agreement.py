"""One pruned model in four forms, for every architecture: they have to predict the same."""

from __future__ import annotations

import copy
import inspect
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from random_encoders import HEADLESS, IMAGES
from random_encoders import TEXTS as ALL_TEXTS

from compressor.export.to_onnx import export_onnx
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.tasks import load_task

ROOT = Path(__file__).parents[2]
# One layer without any neurons, one without any heads, and uneven numbers of the rest.
HEADS = {0: [1], 1: [0, 1, 2, 3]}
NEURONS = {0: list(range(64)), 1: [7, *range(30, 40)]}
# Copies of another family in transformers, which differ in nothing that a trace sees.
COPIES = dict.fromkeys(("camembert", "data2vec-text", "xlm-roberta"), "roberta")
# What is new in these is in one that is exported here; tools/check_families.py exports them all.
LIKE_OTHERS = {"dinov2_with_registers", "deberta", "ernie", "esm", "eurobert", "jina_embeddings_v3"}
LIKE_OTHERS |= {"layoutlm", "xmod", "clip", "gpt2", "gemma", "gemma2", "gemma3_text", "siglip"}
LIKE_OTHERS |= {"helium", "llama", "mistral", "nomic_bert", "qwen2", "rembert"}
TEXTS = [name for name in ALL_TEXTS if name not in HEADLESS]
EXPORTED = [
    name
    for name in (*TEXTS, *IMAGES)
    if name not in COPIES and name not in LIKE_OTHERS and name not in HEADLESS
]
# Texts of every length that a model takes, the second row with padding; images have one size.
LONGEST = 62  # of 64 positions MPNet leaves two to padding
LOAD_ALL = """
import sys, numpy
from compressor.models.torch_model import load_checkpoint
for folder in sys.argv[1:]:
    model, batches = load_checkpoint(folder + "/model"), numpy.load(folder + "/batches.npz")
    names = {key.split("/")[0] for key in batches.files}
    found = {}
    for name in names:
        batch = {key.split("/")[1]: batches[key] for key in batches.files if key.startswith(name)}
        found[name] = model.predict(batch)
    numpy.savez(folder + "/fresh.npz", **found)
"""


@dataclass(frozen=True)
class Forms:
    """A pruned model, its inputs by name, and what the dense model and a fresh process predict."""

    model: TorchModel
    batches: dict[str, dict[str, Any]]
    dense: dict[str, Any]
    folder: Path

    @property
    def fresh(self) -> Any:
        return np.load(self.folder / "fresh.npz")


def dense_with_units_at_zero(module: Any, heads: dict[int, list[int]]) -> Any:
    dense = copy.deepcopy(module)
    for layer in encoder_layers(dense):
        for head in heads.get(layer.index, []):
            layer.attention.output.weight.data[:, 8 * head : 8 * head + 8] = 0
        layer.feed_forward.ffn_out.weight.data[:, NEURONS[layer.index]] = 0
    return dense


def text_batches(names: list[str]) -> dict[str, dict[str, Any]]:
    ids = np.random.default_rng(0).integers(5, 40, size=(2, LONGEST))
    batches = {}
    for length in range(1, LONGEST + 1):
        mask = np.ones((2, length), np.int64)
        mask[1, max(1, length // 2) :] = 0
        known = {
            "input_ids": ids[:, :length] * mask,  # padding is 0
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        batches[f"length-{length:02}"] = {name: known[name] for name in names}
    return batches


def forms_of(model_type: str, make_encoder: Any, preprocessor: Any, folder: Path) -> Forms:
    is_text = model_type in TEXTS
    if is_text:
        module = make_encoder(model_type, pad_token_id=0).module
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] * (model_type in ("bert", "electra"))
        preprocessor.model_input_names = names
        batches = text_batches(names)
    else:
        module = make_encoder(model_type).module
        pixels = np.random.default_rng(0).standard_normal((3, 1, 8, 8), dtype=np.float32)
        batches = {"images": {"pixel_values": pixels}}
    of_images = "image-features" if model_type in HEADLESS else "image-classification"
    task = load_task("text-classification" if is_text else of_images)
    dense = TorchModel(dense_with_units_at_zero(module, HEADS), preprocessor, task)
    prune_heads(find_encoder(module), HEADS)
    prune_neurons(find_encoder(module), NEURONS)
    model = TorchModel(module, preprocessor, task)
    model.save(folder / "model")
    flat = {f"{key}/{name}": v for key, batch in batches.items() for name, v in batch.items()}
    np.savez(folder / "batches.npz", **flat)
    predictions = {name: dense.predict(batch) for name, batch in batches.items()}
    return Forms(model, batches, predictions, folder)


@pytest.fixture(scope="module")
def all_forms(
    make_encoder: Any,
    tiny_bert_dir: Path,
    tiny_vit_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Forms]:
    """Prune and save one model of each architecture, and load all of them in one fresh process."""
    forms = {}
    for model_type in (*TEXTS, *IMAGES):
        if model_type == "qwen2":  # whose own class transformers makes of any tokenizer
            names = ("pad_token", "unk_token", "eos_token")
            pieces = {f"[{name}]": number for number, name in enumerate((*names, "mask"))}
            special = {name: f"[{name}]" for name in names}
            preprocessor: Any = transformers.Qwen2Tokenizer(vocab=pieces, merges=[], **special)
        elif model_type in TEXTS:
            preprocessor = transformers.AutoTokenizer.from_pretrained(tiny_bert_dir)
        else:
            preprocessor = load_task("image-classification").load_preprocessor(tiny_vit_dir)
        folder = tmp_path_factory.mktemp(model_type)
        forms[model_type] = forms_of(model_type, make_encoder, preprocessor, folder)
    subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *(str(form.folder) for form in forms.values())],
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return forms


@pytest.mark.parametrize("model_type", [*TEXTS, *IMAGES])
def test_pruned_saved_and_loaded_give_the_predictions_of_the_dense_model(
    all_forms: dict[str, Forms], model_type: str
):
    forms = all_forms[model_type]
    fresh = forms.fresh
    assert len(forms.batches) == (LONGEST if model_type in TEXTS else 1)
    for name, batch in forms.batches.items():
        expected = forms.dense[name]
        pruned = forms.model.predict(batch)
        np.testing.assert_allclose(pruned, expected, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(fresh[name], pruned, atol=1e-4, rtol=0, err_msg=name)
    assert np.ptp(forms.dense[name]) > 0.01  # the predictions say something


@pytest.mark.parametrize("model_type", EXPORTED)
def test_exported_gives_the_predictions_of_the_pruned_model(
    all_forms: dict[str, Forms], tmp_path: Path, model_type: str
):
    forms = all_forms[model_type]
    exported = export_onnx(forms.model, tmp_path / "model.onnx", threads=1)
    for name, batch in forms.batches.items():
        pruned, predictions = forms.model.predict(batch), exported.predict(batch)
        np.testing.assert_allclose(predictions, pruned, atol=1e-4, rtol=0, err_msg=name)


def code_of(module: Any) -> dict[str, list[str]]:
    """Return the code of embeddings, encoder and head, without comments and names of a family."""
    base = module.base_model
    family = re.escape(type(base).__name__.removesuffix("Model"))
    found = {}
    for part in (base.embeddings, base.encoder, module.classifier):
        for kind in {type(item) for item in part.modules()}:
            code = re.sub(r'""".*?"""|#[^\n]*', "", inspect.getsource(kind), flags=re.S)
            found[re.sub(family, "", kind.__name__)] = re.sub(family, "", code).split()
    return found


@pytest.mark.parametrize("model_type", COPIES)
def test_what_is_not_exported_is_the_same_code_as_what_is(make_encoder: Any, model_type: str):
    module, original = make_encoder(model_type).module, make_encoder(COPIES[model_type]).module
    assert type(module) is not type(original)
    assert code_of(module) == code_of(original)


def test_the_units_that_were_removed_mattered(make_encoder: Any):
    encoder = make_encoder("bert")
    changed = dense_with_units_at_zero(encoder.module, HEADS)
    assert torch.abs(encoder.logits(changed) - encoder.logits()).max() > 0.01
