from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.read_tokens import reads_one_token


class MeanOfTokens(nn.Module):
    """A classifier of the mean of all tokens, on a model of the task."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.base_model = module.base_model
        self.config, self.classifier = module.config, module.classifier

    def forward(self, **inputs: torch.Tensor) -> Any:
        states = self.base_model(**inputs).last_hidden_state
        answer = nn.Module()
        answer.logits = self.classifier(states.mean(dim=1))
        return answer


def encoded(model: TorchModel) -> dict[str, torch.Tensor]:
    example = model.task.dummy_example(6)
    batch = model.task.encode(model.preprocessor, [example, example])
    return {name: torch.from_numpy(value) for name, value in batch.items()}


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_vit"])
def test_a_classifier_of_the_first_token_reads_one(request: pytest.FixtureRequest, name: str):
    model: TorchModel = request.getfixturevalue(name)
    assert reads_one_token(model.module, encoded(model))
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_a_classifier_of_the_mean_reads_all(tiny_bert: TorchModel):
    assert not reads_one_token(MeanOfTokens(tiny_bert.module), encoded(tiny_bert))
