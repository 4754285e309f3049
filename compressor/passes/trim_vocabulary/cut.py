"""Cutting the vocabulary of a tokenizer, and with it every table that has a row for each piece."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn

from compressor.errors import StepFailed
from compressor.models.low_rank import LowRankTable
from compressor.models.structure import input_embeddings
from compressor.models.text_files import TOKENIZER_CONFIG
from compressor.models.text_inputs import positions_of
from compressor.models.torch_model import TorchModel
from compressor.passes.trim_vocabulary.kinds import TOKENIZER, no_smaller_pieces, untrimmable
from compressor.passes.trim_vocabulary.vocabulary import VOCABULARIES, Vocabulary
from compressor.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What `save_pretrained` leaves beside tokenizer.json and that has the ids of before. transformers
# loads from tokenizer.json alone; a file that it does not read, and others do, must not differ.
_STAYS = (TOKENIZER, TOKENIZER_CONFIG, "chat_template.jinja")
_LAST_DIGIT = 1e-12  # of a score, as a share of it; pieces that differ at all differ by more


class UnsupportedTokenizer(StepFailed):
    """The vocabulary of this preprocessor cannot be cut; `reason` says why."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(untrimmable(kind, reason))


def vocabulary_of(preprocessor: PreTrainedTokenizerBase) -> Vocabulary:
    """Return the vocabulary of the tokenizer inside, with a copy of it that neither cuts nor pads.

    Raises `UnsupportedTokenizer` when there is none that can be trimmed.
    """
    kind = type(preprocessor).__name__
    if not isinstance(preprocessor, transformers.PreTrainedTokenizerBase):
        raise UnsupportedTokenizer(kind, "it is not a tokenizer")
    if not preprocessor.is_fast:
        raise UnsupportedTokenizer(kind, "it is a slow tokenizer, without a tokenizer.json")
    backend: Any = preprocessor
    tokenizer = Tokenizer.from_str(backend.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] not in VOCABULARIES:
        raise UnsupportedTokenizer(kind, no_smaller_pieces(model["type"]))
    if model.get("dropout"):
        raise UnsupportedTokenizer(kind, "it leaves out merges at random (dropout)")
    return VOCABULARIES[model["type"]](tokenizer)


def named_ids(config: Any) -> set[int]:
    """Return the ids of tokens that a configuration names, such as that of the padding."""
    found: set[int] = set()
    for name, value in config.to_dict().items():
        if name.endswith("_token_id"):
            found.update(item for item in _each(value) if type(item) is int)
    return found


def _each(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def trim_vocabulary(model: TorchModel, kept: Sequence[int]) -> TorchModel:
    """Return `model` with only the pieces `kept`, ascending old ids, which become 0, 1, 2, ...

    The module is changed in place; the tokenizer is a new one. Raises `StepFailed` when the model
    derives positions from an id of the padding that would change, and when transformers makes
    another tokenizer of the trimmed files than they say.
    """
    config = model.module.config
    new_ids = {old: new for new, old in enumerate(kept)}
    positions = positions_of(model.module)
    counted = None if positions is None else positions.after_padding
    if counted is not None and new_ids.get(counted) != counted:
        raise StepFailed(
            f"model type '{config.model_type}' counts positions from the id of its padding, "
            f"{counted}, which would become {new_ids.get(counted, 'that of another piece')}; keep "
            f"the pieces before it (setting keep)"
        )
    preprocessor = _trim_tokenizer(model.preprocessor, new_ids, model.task)
    _trim_tables(model.module, kept, padding=new_ids.get(config.pad_token_id))
    config.vocab_size = len(kept)
    _rename(config, new_ids)
    if getattr(model.module, "generation_config", None) is not None:
        _rename(model.module.generation_config, new_ids)
    return TorchModel(model.module, preprocessor, model.task)


def table_of(module: PreTrainedModel) -> nn.Embedding:
    """Return the table of words; raises `StepFailed` where it has not a row for each piece."""
    table = input_embeddings(module)
    if isinstance(table, LowRankTable):
        raise StepFailed(
            "the table of words is a product of two since factorize_embeddings; move "
            "trim_vocabulary before it"
        )
    if not isinstance(table, nn.Embedding):
        found = "transformers names none" if table is None else f"found {type(table).__name__}"
        raise StepFailed(
            f"a model of type '{module.config.model_type}' has no table of words that is a row for "
            f"each piece ({found}); remove this pass"
        )
    return table


def _trim_tables(module: PreTrainedModel, kept: Sequence[int], *, padding: int | None) -> None:
    """Leave the rows `kept` of the table of words, and of a head that gives a number for each.

    A parameter that several modules share, as a head that is tied to the table, stays shared.
    """
    table = table_of(module)
    head, rows = module.get_output_embeddings(), table.num_embeddings
    whole = [table.weight]
    if isinstance(head, nn.Linear) and head.out_features == rows:
        whole += [head.weight] if head.bias is None else [head.weight, head.bias]
        whole += _biases_beside(module, head)
    index = torch.tensor(kept, device=table.weight.device)
    cut = {
        id(old): nn.Parameter(old.detach()[index], requires_grad=old.requires_grad) for old in whole
    }
    for part in module.modules():
        for name, old in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if id(old) in cut:
                part.register_parameter(name, cut[id(old)])
                if name == "weight" and isinstance(part, nn.Embedding):
                    part.num_embeddings, part.padding_idx = len(kept), padding
                elif name == "weight" and isinstance(part, nn.Linear):
                    part.out_features = len(kept)


def _biases_beside(module: PreTrainedModel, head: nn.Linear) -> list[nn.Parameter]:
    """Return what lies beside a head for each piece, such as a second bias that it does not share.

    That is so in BERT and RoBERTa where the head is not tied to the table.
    """
    return [
        own
        for part in module.modules()
        if any(child is head for child in part.children())
        for own in part.parameters(recurse=False)
        if own.shape == (head.out_features,) and own is not head.bias
    ]


def _rename(config: Any, new_ids: Mapping[int, int]) -> None:
    """Give a configuration the new ids of the tokens that it names, in place."""
    for name, value in list(config.to_dict().items()):
        if not name.endswith("_token_id"):
            continue
        if isinstance(value, list | tuple):
            setattr(config, name, [new_ids.get(old, old) for old in value])
        elif value in new_ids:
            setattr(config, name, new_ids[value])


def _trim_tokenizer(
    preprocessor: PreTrainedTokenizerBase, new_ids: dict[int, int], task: Task
) -> PreTrainedTokenizerBase:
    """Return the tokenizer as it is when it is saved, its ids are replaced, and it is loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        preprocessor.save_pretrained(folder)
        for path in folder.iterdir():
            if path.is_file() and path.name not in _STAYS:
                path.unlink()
        path = folder / TOKENIZER
        content = json.loads(path.read_text(encoding="utf-8"))
        content["truncation"] = content["padding"] = None
        _vocabulary_from(content).trim(content["model"], new_ids)
        for entry in content["added_tokens"]:
            entry["id"] = new_ids[entry["id"]]
        _replace_ids(content["post_processor"], new_ids)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        _rename_added_tokens(folder / TOKENIZER_CONFIG, new_ids)
        trimmed: PreTrainedTokenizerBase = task.load_preprocessor(folder)
    _require_same(trimmed, content)
    trimmed.model_max_length = preprocessor.model_max_length
    trimmed.model_input_names = preprocessor.model_input_names
    trimmed.name_or_path = preprocessor.name_or_path
    return trimmed


def _vocabulary_from(content: Mapping[str, Any]) -> Vocabulary:
    return VOCABULARIES[content["model"]["type"]](Tokenizer.from_str(json.dumps(content)))


def _rename_added_tokens(path: Path, new_ids: Mapping[int, int]) -> None:
    """Give the added tokens of a tokenizer_config.json their new ids, where it lists them."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    listed: dict[str, Any] | None = settings.get("added_tokens_decoder")
    if listed:
        settings["added_tokens_decoder"] = {
            str(new_ids[int(old)]): token for old, token in listed.items()
        }
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _require_same(trimmed: PreTrainedTokenizerBase, content: Mapping[str, Any]) -> None:
    """Raise `StepFailed` where a loaded tokenizer is not the one that its file describes.

    transformers builds the tokenizers of many classes anew from the pieces of the file, with parts
    and ids that are the class's own.
    """
    backend: Any = trimmed
    loaded = json.loads(backend.backend_tokenizer.to_str())
    written = json.loads(Tokenizer.from_str(json.dumps(content)).to_str())
    if _are_alike(loaded["model"]["vocab"], written["model"]["vocab"]):
        loaded["model"]["vocab"] = written["model"]["vocab"]
    parts = loaded.keys() - {"version", "padding", "truncation"}  # transformers keeps the last two
    different = sorted(name for name in parts if loaded[name] != written[name])
    if different:
        kind = type(trimmed).__name__
        raise UnsupportedTokenizer(
            kind,
            f"transformers makes of the trimmed tokenizer.json a {kind} with another "
            f"{' and '.join(different)}",
        )


def _are_alike(loaded: Any, written: Any) -> bool:
    """Return whether two vocabularies have the same ids, or pieces in order with the same scores.

    Python and the library read the last digit of a score in a file in different ways.
    """
    if isinstance(written, dict):
        return bool(loaded == written)
    return len(loaded) == len(written) and all(
        piece == own and math.isclose(score, own_score, rel_tol=_LAST_DIGIT)
        for (piece, score), (own, own_score) in zip(loaded, written, strict=True)
    )


def _replace_ids(post_processor: Any, new_ids: Mapping[int, int]) -> None:
    """Give the special tokens that are put around a text their new ids, in place."""
    if post_processor is None:
        return
    for part in post_processor.get("processors", ()):  # a sequence of processors
        _replace_ids(part, new_ids)
    for entry in post_processor.get("special_tokens", {}).values():  # TemplateProcessing
        entry["ids"] = [new_ids[old] for old in entry["ids"]]
    for name in ("sep", "cls"):  # BertProcessing, RobertaProcessing: a pair of token and id
        if name in post_processor:
            token, old = post_processor[name]
            post_processor[name] = [token, new_ids[old]]
