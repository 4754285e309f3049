"""The optimizers that a training may take its steps with, by the names of the settings.

Those of PyTorch and transformers are there with either; AdaBelief and Lion come from the package
pytorch-optimizer, which is an extra.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from compressor.training.settings import TrainingSettings


def optimizer_of(
    settings: TrainingSettings,
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Return the class and its arguments but for parameters; None for the Trainer's own AdamW.

    Ref: AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101; Adam: Kingma & Ba 2015,
    arXiv:1412.6980; Adagrad: Duchi et al. 2011, JMLR 12:2121; Adafactor: Shazeer & Stern 2018,
    arXiv:1804.04235; AdaBelief: Zhuang et al. 2020, arXiv:2010.07468; Lion: Chen et al. 2023,
    arXiv:2302.06675.
    """
    given = {"betas": settings.betas, "eps": settings.epsilon, "momentum": settings.momentum}
    own: dict[str, Any] = {"lr": settings.learning_rate}
    own |= {name: value for name, value in given.items() if value is not None}
    match settings.optimizer:
        case "adamw":
            return None
        case "adam":
            return torch.optim.Adam, own
        case "sgd":
            return torch.optim.SGD, {"momentum": 0.9, **own}
        case "adagrad":
            return torch.optim.Adagrad, own
        case "rmsprop":
            return torch.optim.RMSprop, own
        case "adafactor":
            # The learning rate is the recipe's, and not one that follows from the step.
            return transformers.Adafactor, {
                "scale_parameter": False,
                "relative_step": False,
                **own,
            }
        case _:
            return _from_package(settings.optimizer), own


def _from_package(name: str) -> type[torch.optim.Optimizer]:
    # Importing it takes two seconds, and the package is an extra.
    from pytorch_optimizer import AdaBelief, Lion

    return AdaBelief if name == "adabelief" else Lion
