"""Folders that hold an adapter of PEFT in place of a model: what they say, without loading torch.

An adapter is merged into the model that it was trained on (`merging.py`). Which parts of PEFT are
taken is written out here: a setting of the others would be ignored by a merge, or would load code.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch
from compressor.models.weight_files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    INDEX,
    WEIGHTS,
    StoredTensor,
    read_headers,
)
from compressor.paths import LARGEST_JSON, unreadable

PACKAGE = "peft"
# Those whose merged weights compute what the adapter computed.
_KINDS = ("ADALORA", "IA3", "LOHA", "LOKR", "LORA")
# What a task type means by class; none: the class is named (auto_mapping).
_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
_REFUSED = {
    "megatron_config": "belongs to Megatron, which would be loaded",
    "alora_invocation_tokens": "switches the adapter on at some tokens alone",
    "arrow_config": "chooses among several adapters at run time",
    "layer_replication": "runs layers more than once, which config.json cannot say",
    "monteclora_config": "draws the adapter's weights at run time",
    "use_bdlora": "shards the adapter over machines",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk; `tensors` by their keys in the file, `name` as the user wrote it."""

    name: str
    directory: Path
    settings: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def place(self) -> Path:
        """Return the file that describes it."""
        return self.directory / ADAPTER

    @property
    def base(self) -> str:
        """Return the model that it was trained on by its file; empty where that names none."""
        found = self.settings.get("base_model_name_or_path")
        return found.strip() if isinstance(found, str) else ""

    @property
    def base_revision(self) -> str | None:
        """Return the branch, tag or commit of the base that it was trained on, if it says one."""
        found = self.settings.get("revision")
        return found if isinstance(found, str) and found else None

    @property
    def class_name(self) -> str | None:
        """Return which class of transformers the base is, None where its own config says it.

        Raises `EnvironmentMismatch` for a task type that no task here is for.
        """
        kind = self.settings.get("task_type")
        if kind is not None:
            if kind not in _CLASSES:
                raise EnvironmentMismatch(
                    f"{self.place}: task_type is {kind!r}, and adapters of {', '.join(_CLASSES)} "
                    f"or of none are merged; merge it yourself (peft: model.merge_and_unload()) "
                    f"and give the saved model"
                )
            return _CLASSES[kind]
        mapping = self.settings.get("auto_mapping")
        found = mapping.get("base_model_class") if isinstance(mapping, dict) else None
        return found if isinstance(found, str) else None


def read_adapter(name: str, directory: Path) -> Adapter | None:
    """Return the adapter that a folder holds in place of a model, None where it holds none.

    A folder with both is left to `refuse_adapter`. Raises `EnvironmentMismatch` where peft is not
    installed, and for an adapter that cannot be merged.
    """
    place = directory / ADAPTER
    has_model = any((directory / file).exists() for file in (WEIGHTS, INDEX))
    if not place.exists() or has_model or not (directory / ADAPTER_WEIGHTS).is_file():
        return None
    if importlib.util.find_spec(PACKAGE) is None:
        raise EnvironmentMismatch(
            f"{name}: holds an adapter ({ADAPTER}), and the package {PACKAGE}, which merges it, is "
            f"not installed; run `pip install 'compressor[adapters]'`, or merge it into its base "
            f"model yourself (peft: model.merge_and_unload()), save that with save_pretrained, and "
            f"give that folder"
        )
    settings = _read(place)
    _check(place, settings)
    tensors = read_headers(name, directory, (directory / ADAPTER_WEIGHTS,))
    return Adapter(name, directory, settings, tensors)


def _read(place: Path) -> dict[str, Any]:
    if (reason := unreadable(place, largest=LARGEST_JSON)) is not None:
        raise EnvironmentMismatch(f"{place}: {reason}; let this user read it")
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{place}: not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise EnvironmentMismatch(f"{place}: holds no settings; save the adapter again")
    return content


def _check(place: Path, settings: Mapping[str, object]) -> None:
    kind = settings.get("peft_type")
    if kind not in _KINDS:
        raise EnvironmentMismatch(
            f"{place}: peft_type is {kind!r}, which cannot be merged into weights here (those that "
            f"can are {', '.join(_KINDS)}); merge it yourself if peft does "
            f"(model.merge_and_unload()) and give the saved model"
        )
    for key, why in _REFUSED.items():
        if settings.get(key):
            raise EnvironmentMismatch(
                f"{place}: {key} {why}, so the merged model would be another one; train the "
                f"adapter without it"
            )
