"""What makes a score of the one logit of a head, by config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from .examples import ConfigFile


class HeadProblem(ValueError):
    """Why the labels that config.json names cannot be taken; without the name of the file."""


Activation = Literal["identity", "sigmoid"]
# What sentence-transformers writes for each, the path of the class first.
ACTIVATIONS: Mapping[Activation, tuple[str, ...]] = {
    "identity": ("torch.nn.modules.linear.Identity", "torch.nn.Identity"),
    "sigmoid": ("torch.nn.modules.activation.Sigmoid", "torch.nn.Sigmoid"),
}


def read_activation(config: ConfigFile, about: ConfigFile | None) -> Activation:
    """Return what makes the number that is meant of the one logit of a head.

    It is what sentence-transformers wrote for its CrossEncoder, in the first place that it reads.
    Without it, the logit itself for `problem_type: regression`, and else its sigmoid, as
    transformers' pipeline gives and CrossEncoder too. Raises `HeadProblem` for any other function:
    none is looked up by a name that a checkpoint brings.
    """
    named = activation_named(config, about)
    for activation, paths in ACTIVATIONS.items():
        if named in paths:
            return activation
    if named:
        raise HeadProblem(
            f"the activation {named!r} is not computed here, and known are "
            f"{' and '.join(paths[0] for paths in ACTIVATIONS.values())}; write the one that makes "
            f"the scores you mean as sentence_transformers: {{activation_fn: ...}} into config.json"
        )
    return "identity" if config.get("problem_type") == "regression" else "sigmoid"


def activation_named(config: ConfigFile, about: ConfigFile | None) -> str:
    """Return what sentence-transformers wrote, an empty text where it wrote nothing."""
    own = config.get("sentence_transformers")
    places: Iterator[Any] = iter(
        (
            (about or {}).get("activation_fn"),
            own.get("activation_fn") if isinstance(own, Mapping) else None,
            config.get("sbert_ce_default_activation_function"),
        )
    )
    return next((str(place) for place in places if place), "")
