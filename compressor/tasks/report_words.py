"""How reports and model cards speak of what the models of a task give."""

from __future__ import annotations

from dataclasses import dataclass

# Plain onnxruntime for the model card, up to the inputs. `{provider}`, `{max_length}`, `{labels}`
# and `{thresholds}` are filled in; doubled braces are braces.
TOKENS_CODE = """\
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx", providers=[{provider}])
batch = tokenizer(
    ["a text", "another, longer text"],
    padding=True,
    truncation=True,
    max_length={max_length},
    return_tensors="np",
)
inputs = {{node.name: batch[node.name].astype(np.int64) for node in session.get_inputs()}}
"""


@dataclass(frozen=True)
class ReportWords:
    """The words for one task; by default those of a classifier.

    `code` uses the artifact without this package, as a template like `TOKENS_CODE`, and
    `code_of_bytes` one whose graph gives integers in place of floats.
    """

    code: str = ""
    code_of_bytes: str = ""
    inputs: str = (  # what the graph reads, a sentence
        "Inputs as the tokenizer names them (such as `input_ids` and `attention_mask`): int64 of "
        "shape (batch, sequence), made from the tokenizer files beside the model."
    )
    packages: str = ""  # that `code` needs besides numpy, onnxruntime and transformers
    hub_task: str | None = None  # the Hub's pipeline tag, where it is not the task's name
    row: str = "row"  # what an example is called
    axes: str = "batch"  # of the logits, before that of the labels
    last_axis: str = "labels"  # where the checkpoint names none
    gives: str = "labels"  # what a loaded artifact returns
    # The few predictions that a report shows of both models, and the figure beside each.
    predictions_title: str = "Predictions"
    predictions_shown: str = "search rows, one of each class that the original predicts"
    score: str = "probability"  # empty: there is none, as of the entities of a whole text
    # What changed between the models.
    flips_title: str = "Predictions that changed"
    another: str = "another prediction"
    changed: tuple[str, str, str] = ("prediction", "changed", "changed")  # what; one, several did
    flips_order: str = (
        "The surest of the old predictions first."  # where no label says what is right
    )
    changes_are_rows: bool = True  # and not queries of several rows, say
    prediction_is_text: bool = False  # as long as any; else it is a name
    # Where labels say what is right.
    flips_worst: str = "Those come first whose right label lost most probability."
    flips_header: str = ""  # after "before" and "after" in the head of the table
    flips_sure: str = "and how sure"  # empty: no figure
    flips_moved: bool = False  # `lost` of a flip says how far it moved, and is shown
