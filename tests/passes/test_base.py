from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.passes import PassContext, settings_of
from compressor.progress import Silent


def load_nothing() -> None:
    raise AssertionError("no model is needed here")


@pytest.fixture
def context(tmp_path: Path) -> PassContext:
    return PassContext(
        splits={},
        load_baseline=load_nothing,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        seed=0,
        work_dir=tmp_path,
        progress=Silent(),
        note=[].append,
    )


def test_a_fact_is_kept_under_its_name_as_plain_json(context: PassContext):
    context.record("sensitivity", ({"name": "query", "logit_rms": 0.5},))
    assert context.facts == {"sensitivity": [{"name": "query", "logit_rms": 0.5}]}


def test_a_fact_does_not_change_with_the_list_it_came_from(context: PassContext):
    scores = [1]
    context.record("scores", scores)
    scores.append(2)
    assert context.facts["scores"] == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_a_fact_that_json_lacks_is_refused(context: PassContext, value: object):
    with pytest.raises(ValueError, match="fact 'odd' is not plain JSON"):
        context.record("odd", value)
    assert context.facts == {}


def test_a_fact_is_never_overwritten(context: PassContext):
    context.record("scores", 1)
    with pytest.raises(ValueError, match="fact 'scores' is recorded already"):
        context.record("scores", 2)
    assert context.facts == {"scores": 1}


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"kind": "quantize_dynamic"}, 0),
        ({"kind": "quantize_dynamic", "rounding": "gptq", "rows": 700}, 700),
        ({"kind": "quantize_dynamic", "embeddings": "int4", "refined_rows": 750}, 10_000),
        ({"kind": "quantize_static", "rows": 4096}, 4096),
        ({"kind": "quantize_aware_train", "measured_rows": 800}, 800),
        ({"kind": "quantize_aware_train", "rows": 900}, 512),
        ({"kind": "quantize_aware_train", "activations": "static", "rows": 900}, 900),
    ],
)
def test_a_pass_says_how_many_calibration_rows_it_would_read(settings: dict[str, Any], rows: int):
    step = settings_of(settings)
    assert step.calibration_rows_wanted() == rows
