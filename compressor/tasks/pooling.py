"""How a sentence's vector is made of the states of its tokens, as sentence-transformers writes it.

That library keeps it in files beside a plain encoder: `modules.json` lists the steps,
`1_Pooling/config.json` says how states become one vector, a `Dense` step maps it by a matrix, a
`Normalize` step gives it length 1, `sentence_bert_config.json` says how many tokens are read. They
are read as data, nothing in them is run, and what is saved has them again, so that
sentence-transformers loads a compressed checkpoint like the original. A step that this package does
not compute is refused by its name, because vectors without it would be other vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.measurements import EmbeddingRecord
from compressor.runtime.prompts import Prompts, read_prompts
from compressor.tasks.head import ConfigFile
from compressor.tasks.text_towers import has_own_way, is_projected, projected_width
from compressor.tasks.transformer_step import (
    LENGTH_FILE,
    longest_read,
    read_json,
    require_plain_reading,
)
from compressor.tasks.transformer_step import MODULES as MODULES

AMONG_WEIGHTS = ""
ABOUT = "config_sentence_transformers.json"
PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
# In the order in which sentence-transformers concatenates those that flags ask for, which stand in
# the file after `pooling_mode_`.
_FLAGS: dict[str, PoolingMode] = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}
_FLAG = "pooling_mode_"
_JOINED = "+"  # between the modes whose vectors are concatenated
_OWN_PACKAGE = "sentence_transformers."
_OWN_TYPES = f"{_OWN_PACKAGE}models."
_DENSE_WEIGHTS = "model.safetensors"
_WEIGHT = "linear.weight"
# What may follow the matrix of a Dense step, by the class that the file names.
_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
}
# What a step after the pooling reads and gives.
_OF_VECTORS = dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")
_SHORT_NAMES = {"torch.nn.Tanh": "tanh", "torch.nn.Identity": "identity"}


# What each mode takes of the states of a text's tokens, in a sentence.
MODE_WORDS: dict[str, str] = {
    "cls": "the state of the first token",
    "max": "the largest of each number in the states of all tokens",
    "mean": "the mean of the states of all tokens",
    "mean_sqrt_len_tokens": "the sum of the states of all tokens by the square root of how many",
    "weightedmean": "the mean of the states of all tokens, of which the n-th weighs n",
    "lasttoken": "the state of the last token",
    # Of images:
    "patch_mean": "the mean of the states of all patches",
    # Of sounds:
    "frame_mean": "the mean of the states of all frames that are no padding",
    # Of both:
    "pooler": "what the encoder's own pooling gives",
    "projection": "what the encoder's own pooling gives, projected",
}


@dataclass(frozen=True)
class DenseStep:
    """A linear layer over vectors, and what follows it: `tanh` or `identity`.

    `normalized_input` says that vectors are scaled to length 1 before it. `is_cut` says that it
    only leaves out all numbers after the first `out_features`: its matrix is then that of ones on
    the diagonal, which sentence-transformers needs, and nothing is multiplied.
    """

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "tanh"
    normalized_input: bool = False
    is_cut: bool = False


@dataclass(frozen=True)
class Pooling:
    """How vectors are made, and which file says so (None: the recipe, or what is usual).

    `mode` is one of `PoolingMode`, or several with `+` between them, whose vectors are
    concatenated. `dense` are applied one after the other to what it gives; `normalize` scales what
    comes out to length 1. `max_length` is the largest number of tokens that the files allow.
    `about` is the content of `config_sentence_transformers.json`, which is kept as it is.
    """

    mode: str = "mean"
    normalize: bool = False
    source: str | None = None
    max_length: int | None = None
    about: ConfigFile | None = None
    dense: tuple[DenseStep, ...] = ()
    # The folders of the checkpoint that hold the weights of `dense`; `AMONG_WEIGHTS` for those that
    # are among the encoder's.
    dense_folders: tuple[str, ...] = ()

    @property
    def modes(self) -> tuple[str, ...]:
        """Return the modes whose vectors are concatenated, in their order."""
        return tuple(self.mode.split(_JOINED))

    def width(self, hidden_size: int) -> int:
        """Return how many numbers a vector has, of states with `hidden_size` numbers."""
        if self.dense:
            return self.dense[-1].out_features
        return hidden_size * len(self.modes)

    def record(self) -> EmbeddingRecord:
        """Return what a report says about it."""
        prompts = read_prompts(self.about, Path(ABOUT))
        return EmbeddingRecord(
            self.mode,
            self.normalize,
            self.source,
            self.max_length,
            tuple(
                f"the first {step.out_features} of {step.in_features} numbers"
                if step.is_cut
                else f"{step.in_features} to {step.out_features}, {step.activation}"
                for step in self.dense
            ),
            dict(prompts.by_name),
            prompts.default,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain types that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: ConfigFile) -> Pooling:
        """Return what `to_dict` made plain, also after it was written as JSON and read again."""
        dense = tuple(DenseStep(**step) for step in content.get("dense", ()))
        folders = tuple(content.get("dense_folders", ()))
        return cls(**{**content, "dense": dense, "dense_folders": folders})


def mode_words(mode: str) -> str:
    """Return what a mode, or several with `+` between them, take of the states of tokens.

    >>> mode_words("cls+lasttoken")
    'the state of the first token, and the state of the last token'
    """
    return ", and ".join(MODE_WORDS.get(part, part) for part in mode.split(_JOINED))


def short_words(mode: str, *, normalize: bool) -> str:
    """Return in a few words how vectors are made.

    >>> short_words("mean", normalize=True)
    'mean over tokens, length 1'
    """
    words = {
        "cls": "first token",
        "max": "largest over tokens",
        "mean": "mean over tokens",
        "mean_sqrt_len_tokens": "sum over tokens by the square root of their number",
        "weightedmean": "weighted mean over tokens",
        "lasttoken": "last token",
        "patch_mean": "mean over patches",
        "pooler": "the encoder's own pooling",
        "projection": "the encoder's own pooling, projected",
    }
    pooled = " and ".join(words.get(part, part) for part in mode.split(_JOINED))
    return f"{pooled}, {'length 1' if normalize else 'not scaled'}"


def read_pooling(
    directory: Path, *, mode: str | None = None, normalize: bool | None = None
) -> Pooling:
    """Return how a checkpoint's vectors are made: by its files, else by the recipe, else as usual.

    Usual is what sentence-transformers does with a checkpoint that has no such files: the mean over
    the tokens, or the last one of a language model, where no other has read the whole text; not
    normalised. Of CLIP's encoder of texts it is what CLIP does.

    `mode` and `normalize` are what the recipe says, None where it says nothing.

    Raises `EnvironmentMismatch` when a file is damaged or asks for a step that is not known, and
    `RecipeError` when the recipe contradicts the files.
    """
    wanted = {"pooling": mode, "normalize": normalize}
    about = read_json(directory / ABOUT)
    found = _from_modules(directory)
    if found is not None:
        require_plain_reading(directory, "states")
    max_length = longest_read(directory)
    read_prompts(about, directory / ABOUT)
    config = {} if found is not None else (read_json(directory / "config.json") or {})
    if found is None and (mode is None or is_projected(config)) and has_own_way(config):
        found = _of_text_tower(directory / "config.json", config, normalize=normalize)
    if found is None:
        usual = mode or ("lasttoken" if _reads_forwards(config) else "mean")
        return _truncated(Pooling(usual, bool(normalize), None, max_length, about), directory)
    said = {"pooling": found.mode, "normalize": found.normalize}
    mistakes = [
        f"model.{name}: is {_shown(value)}, but {found.source} of the checkpoint says "
        f"{_shown(said[name])}, and its vectors would become others; remove it"
        for name, value in wanted.items()
        if value not in (None, said[name])
    ]
    if mistakes:
        raise RecipeError(mistakes)
    return _truncated(replace(found, max_length=max_length, about=about), directory)


def _reads_forwards(config: ConfigFile) -> bool:
    """Return whether a checkpoint was saved as a language model, whose tokens see those before."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return str(first).endswith("ForCausalLM") and bool(config.get("is_causal", True))


def _of_text_tower(place: Path, config: ConfigFile, *, normalize: bool | None) -> Pooling:
    """Return how CLIP's encoder of texts makes vectors; raises as `projected_width`."""
    width = projected_width(place, config)
    source = "config.json"
    if width is None:
        return Pooling("lasttoken", bool(normalize), source)
    hidden = config.get("hidden_size", 512)  # what transformers takes
    step = DenseStep(hidden, width, bias=False, activation="identity")
    return Pooling(
        "lasttoken", bool(normalize), source, dense=(step,), dense_folders=(AMONG_WEIGHTS,)
    )


def _truncated(pooling: Pooling, directory: Path) -> Pooling:
    """Return a pooling that leaves out what sentence-transformers does by `truncate_dim`.

    It cuts what the last step gave, and does not scale what is left to length 1.
    """
    wanted = (pooling.about or {}).get("truncate_dim")
    if wanted is None:
        return pooling
    if type(wanted) is not int or wanted < 1:
        raise EnvironmentMismatch(
            f"{directory / ABOUT}: truncate_dim must be a whole number above 0, or null, got "
            f"{wanted!r}"
        )
    width = pooling.dense[-1].out_features if pooling.dense else _pooled_width(pooling, directory)
    if wanted >= width:
        return pooling
    step = DenseStep(width, wanted, False, "identity", pooling.normalize, is_cut=True)
    return replace(
        pooling,
        normalize=False,
        dense=(*pooling.dense, step),
        dense_folders=(*pooling.dense_folders, ABOUT),
    )


def _pooled_width(pooling: Pooling, directory: Path) -> int:
    config = read_config(directory)
    size = config.get("hidden_size", config.get("d_model", config.get("dim")))
    if type(size) is not int:
        raise EnvironmentMismatch(
            f"{directory / ABOUT}: truncate_dim cuts vectors, and config.json does not say how "
            f"many numbers they have (hidden_size); set truncate_dim to null, and cut them with "
            f"the pass cut_vectors"
        )
    return size * len(pooling.modes)


def dense_weights(directory: Path, folder: str) -> Path:
    """Return the weight file of a Dense step in `folder`.

    Raises `EnvironmentMismatch` where it is missing or only a pickle.
    """
    path = directory / folder / _DENSE_WEIGHTS
    if path.is_file():
        return path
    pickles = sorted(found.name for found in (directory / folder).glob("*.bin"))
    if pickles:
        raise EnvironmentMismatch(
            f"{directory / folder}: its weights are in {pickles[0]} alone, a pickle, which can run "
            f"code when it is read; load the model with sentence-transformers and save it again, "
            f"which writes {_DENSE_WEIGHTS}"
        )
    raise EnvironmentMismatch(
        f"{path}: not found, and {MODULES} names its folder; copy it from the source"
    )


def dense_files(directory: Path) -> list[Path]:
    """Return the weight files that there are of the Dense steps of a checkpoint."""
    modules = read_json(directory / MODULES, kind=list) or []
    steps = [step for step in modules if isinstance(step, dict)]
    kinds = [(str(step.get("type")), str(step.get("path"))) for step in steps]
    folders = [path for kind, path in kinds if kind.endswith(".Dense") and Path(path).name == path]
    files = [directory / folder / _DENSE_WEIGHTS for folder in folders]
    return [path for path in files if path.is_file()]


def read_about(directory: Path) -> dict[str, Any] | None:
    """Return what sentence-transformers says about the whole model; None where it says nothing."""
    content: dict[str, Any] | None = read_json(directory / ABOUT)
    return content


def checkpoint_prompts(directory: Path) -> Prompts:
    """Return the prompts of the checkpoint in `directory`; raises as `read_prompts`."""
    return read_prompts(read_about(directory), directory / ABOUT)


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of config.json; raises `EnvironmentMismatch` when it cannot be read."""
    content: dict[str, Any] | None = read_json(directory / "config.json")
    if content is None:
        raise EnvironmentMismatch(f"{directory / 'config.json'}: not found")
    return content


def read_steps(directory: Path) -> list[str] | None:
    """Return the names of the modules that sentence-transformers runs; None where it names none."""
    modules = read_json(directory / MODULES, kind=list)
    return None if modules is None else [kind for kind, _ in _steps(directory / MODULES, modules)]


def similarity_of(directory: Path) -> str:
    """Return by what the vectors of a checkpoint are compared: `cosine` where nothing says."""
    return str((read_about(directory) or {}).get("similarity_fn_name") or "cosine")


def write_pooling(directory: Path, pooling: Pooling, *, width: int, max_length: int) -> list[str]:
    """Write the files from which sentence-transformers makes the same vectors.

    `width` is the hidden size. Returns the folders, beside them, into which the weights of the
    Dense steps belong, as `model.safetensors` with `linear.weight` and `linear.bias`.
    """
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    folders = []
    for step in pooling.dense:
        if step.normalized_input:
            steps.append((f"{len(steps)}_Normalize", "Normalize"))
        folders.append(f"{len(steps)}_Dense")
        steps.append((folders[-1], "Dense"))
    if pooling.normalize:
        steps.append((f"{len(steps)}_Normalize", "Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": _OWN_TYPES + kind}
        for index, (path, kind) in enumerate(steps)
    ]
    _write(directory / MODULES, modules)
    (directory / "1_Pooling").mkdir(exist_ok=True)
    content = {"word_embedding_dimension": width, **_flags(pooling.modes)}
    _write(directory / "1_Pooling" / "config.json", content)
    for folder, step in zip(folders, pooling.dense, strict=True):
        (directory / folder).mkdir(exist_ok=True)
        names = {short: name for name, short in _ACTIVATIONS.items()}
        settings = {
            "in_features": step.in_features,
            "out_features": step.out_features,
            "bias": step.bias,
            "activation_function": names[step.activation],
        }
        _write(directory / folder / "config.json", settings)
    _write(directory / LENGTH_FILE, {"max_seq_length": max_length, "do_lower_case": False})
    if pooling.about is not None:
        _write(directory / ABOUT, pooling.about)
    return folders


def _flags(modes: Sequence[str]) -> dict[str, Any]:
    """Return what the pooling file says of modes: flags, which every version reads, if they can.

    Flags have one order; another one only later versions can be told.
    """
    if list(modes) != [mode for mode in _FLAGS.values() if mode in modes]:
        return {"pooling_mode": list(modes)}
    return {f"{_FLAG}{flag}": mode in modes for flag, mode in _FLAGS.items()}


def _kind_of(step: Any) -> str:
    """Return the class of a step, as short as it can be told apart from those of other packages."""
    kind = str(step["type"])
    return kind.rpartition(".")[2] if kind.startswith(_OWN_PACKAGE) else kind


def _from_modules(directory: Path) -> Pooling | None:
    """Return what `modules.json` and the files that it names say; None without it."""
    place = directory / MODULES
    modules = read_json(place, kind=list)
    if modules is None:
        return None
    steps = _steps(place, modules)
    kinds, paths = [kind for kind, _ in steps], [path for _, path in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or not {"Dense", "Normalize"}.issuperset(kinds[2:]):
        raise EnvironmentMismatch(
            f"{place}: its steps are {', '.join(kinds)}; only Transformer, Pooling and, after "
            f"them, Dense and Normalize of sentence-transformers can be computed, and without the "
            f"others its vectors would be others"
        )
    if paths[0]:
        raise EnvironmentMismatch(
            f"{place}: the encoder lies in {paths[0]}, not beside this file; move the content of "
            f"that folder here and set its path to an empty text"
        )
    for path, kind in zip(paths[1:], kinds[1:], strict=True):
        if kind != "Normalize" and (Path(path).name != path or path == ".."):
            raise EnvironmentMismatch(f"{place}: names a folder outside the checkpoint: {path}")
    settings = directory / paths[1] / "config.json"
    content = _content_of(settings)
    _refuse_excluded_prompts(directory, settings, content)
    dense: list[DenseStep] = []
    folders: list[str] = []
    normalized = False
    for kind, path in zip(kinds[2:], paths[2:], strict=True):
        if kind == "Dense":
            step = _dense_step(directory / path / "config.json", normalized=normalized)
            dense.append(replace(step, is_cut=_is_cut(step, directory, path)))
            folders.append(path)
        else:
            _require_of_vectors(directory / path / "config.json")
        normalized = kind == "Normalize"
    return Pooling(
        _mode(settings, content),
        normalized,
        f"{paths[1]}/config.json",
        dense=tuple(dense),
        dense_folders=tuple(folders),
    )


def _content_of(settings: Path) -> dict[str, Any]:
    content: dict[str, Any] | None = read_json(settings)
    if content is None:
        raise EnvironmentMismatch(f"{settings}: not found, and {MODULES} names it")
    return content


def _dense_step(place: Path, *, normalized: bool) -> DenseStep:
    """Return what the file of a Dense step says; raises for what would change its vectors."""
    content = _content_of(place)
    sizes = content.get("in_features"), content.get("out_features")
    if not all(type(size) is int and size > 0 for size in sizes):
        raise EnvironmentMismatch(
            f"{place}: in_features and out_features must be whole numbers above 0, got "
            f"{sizes[0]!r} and {sizes[1]!r}"
        )
    if type(bias := content.get("bias", True)) is not bool:
        raise EnvironmentMismatch(f"{place}: bias must be true or false, got {bias!r}")
    asked = content.get("activation_function", next(iter(_ACTIVATIONS)))
    activation = {**_ACTIVATIONS, **_SHORT_NAMES}.get(str(asked))
    if activation is None:
        raise EnvironmentMismatch(
            f"{place}: its activation_function is {asked!r}; only {' and '.join(_SHORT_NAMES)} can "
            f"be computed"
        )
    _require_usual(place, content, {**_OF_VECTORS, "use_residual": False})
    return DenseStep(content["in_features"], content["out_features"], bias, activation, normalized)


def _require_of_vectors(place: Path) -> None:
    """Raise where a Normalize step says that it scales something else, or writes it elsewhere."""
    _require_usual(place, read_json(place) or {}, _OF_VECTORS)


def _require_usual(place: Path, content: ConfigFile, usual: Mapping[str, object]) -> None:
    for key, value in usual.items():
        if (found := content.get(key)) not in (None, value):
            raise EnvironmentMismatch(
                f"{place}: {key} is {found!r}, and only {_shown(value)} can be computed"
            )


def _steps(place: Path, modules: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the class and the folder of each module."""
    try:
        return [(_kind_of(module), str(module["path"])) for module in modules]
    except (KeyError, TypeError) as error:
        raise EnvironmentMismatch(f"{place}: a step without type and path ({error!r})") from error


def _is_cut(step: DenseStep, directory: Path, folder: str) -> bool:
    """Return whether a Dense step gives the first numbers of what it gets and nothing else."""
    if step.bias or step.activation != "identity" or step.out_features > step.in_features:
        return False
    with safe_open(dense_weights(directory, folder), framework="np") as content:
        if set(content.keys()) != {_WEIGHT} or content.get_slice(_WEIGHT).get_dtype() != "F32":
            return False
        found = content.get_tensor(_WEIGHT)
    return bool(np.array_equal(found, np.eye(step.out_features, step.in_features)))


def _mode(place: Path, content: ConfigFile) -> str:
    flags = {f"{_FLAG}{flag}": mode for flag, mode in _FLAGS.items()}
    on = [key for key, value in content.items() if value and key.startswith(_FLAG)]
    asked = [mode for flag, mode in flags.items() if flag in on]
    unknown = [key.removeprefix(_FLAG) for key in on if key not in flags]
    if (later := content.get("pooling_mode")) is not None:  # the form of later versions
        listed = later if isinstance(later, list) else [later]
        unknown = [str(mode) for mode in listed if mode not in flags.values()]
        asked = [mode for mode in listed if mode in flags.values()]
    if unknown or not asked:
        raise EnvironmentMismatch(
            f"{place}: pools by {' and '.join(unknown) or 'nothing'}; "
            f"{', '.join(_FLAGS.values())} can be computed"
        )
    return _JOINED.join(asked)


def _refuse_excluded_prompts(directory: Path, settings: Path, content: ConfigFile) -> None:
    """Raise where the tokens of a prompt are read but do not count: a graph sees no prompt."""
    prompts = checkpoint_prompts(directory)
    if content.get("include_prompt", True) is False and any(prompts.by_name.values()):
        raise EnvironmentMismatch(
            f"{settings}: include_prompt is false, so the tokens of a prompt are read and left out "
            f"of the vector, and a graph that is given a text cannot tell which they are; give a "
            f"checkpoint that includes them, or empty its prompts in {ABOUT} if it is used without"
        )


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
