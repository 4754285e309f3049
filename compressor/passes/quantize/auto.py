"""Int8 in the form that is fastest on this machine, among those that keep the answers.

Activations with one scale for each token cost more time, those with a grid fixed beforehand more
accuracy. How much of either depends on the model and on the machine, so both are measured: the
logits of every form on calibration rows, and its time, the forms taking turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.passes.base import About, PassContext
from compressor.passes.effort import Effort, reading_effort
from compressor.passes.quantize.calibrated import CalibratedPass

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.int8_weights import Activations
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight

Form = Literal["per_token", "per_tensor", "static", "mixed"]


class QuantizeAuto(CalibratedPass):
    """Store weights as int8, with the fastest activations that change few enough answers.

    Records `race`: for each form the error of the logits (root mean square) and the share of
    answers that change on the calibration rows, its time in fast runs in milliseconds, the clock
    (of the CPU where one thread runs, otherwise the wall's), and whether it was chosen. Forms take
    turns until their ratios are known to within 1%; on a machine too busy for that the run stops.
    The result is stored like that of any other pass, so a run that goes on does not race
    again; another run, or another machine, may choose differently.
    """

    kind: Literal["quantize_auto"] = "quantize_auto"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8 in the fastest accurate form",
        explanation=(
            "Tries the int8 variants, times them on this machine, and keeps the fastest one whose "
            "answers change little enough. It needs unlabelled calibration rows and a quiet "
            "machine."
        ),
        example="""\
passes:
  - kind: quantize_auto
""",
    )

    forms: tuple[Form, ...] = Field(
        ("per_token", "mixed", "static"),
        min_length=1,
        description="what takes part: one scale for each token or for the whole tensor at run "
        "time, grids fixed by calibration, or such grids only where they round about as finely as "
        "a scale for each token; with per_tensor an answer depends on the other rows of its batch",
    )
    max_changed: float = Field(
        0.005,
        ge=0,
        le=1,
        description="fraction of the answers on calibration rows that a form may change; where all "
        "change more, and for a model of vectors, the form with the smallest error is taken",
    )
    batch_size: int = Field(1, gt=0, le=256, description="rows in a batch that is timed")
    rounds: int = Field(
        30,
        gt=0,
        description="times that every form runs each timed batch, taking turns; ten times as many "
        "where the times vary",
    )

    @property
    def measures_time(self) -> bool:
        """Return that forms are raced."""
        return True

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        judged = reading_effort(num_rows, self.rows, times=len(self.forms))
        timed = Effort(4.0 * self.rounds * self.batch_size * len(self.forms), seconds=5.0)
        return found + judged + timed

    def _activations(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> Activations:
        from compressor.onnx_graph.activation_ranges import finely_rounded, static_scale
        from compressor.passes.quantize.race import choose, race

        forms: dict[str, Activations] = {}
        scales, fine = {}, {}
        if not {"static", "mixed"}.isdisjoint(self.forms):
            found = self._observe(graph, weights, model, context)
            scales = self._chosen(found, static_scale)
            fine = finely_rounded(graph, found.statistics, scales)
        for form in self.forms:
            if form in ("per_token", "per_tensor"):
                forms[form] = form
            else:
                forms[form] = scales if form == "static" else fine
        results = race(graph, weights, forms, settings=self, model=model, context=context)
        chosen = choose(results, self.max_changed)
        context.record("race", [{**item.fact(), "chosen": item is chosen} for item in results])
        context.note(f"Raced on this machine: {'; '.join(map(str, results))}.")
        fixed = f" ({len(fine)} of {len(scales)} grids fixed)" if chosen.form == "mixed" else ""
        context.note(f"Chosen: {chosen.form}{fixed}.")
        return forms[chosen.form]

    def _finest(self) -> Self:
        return self.model_copy(update={"forms": ("per_token",)})
