"""What every pass over the weights of a graph shares: which ones it takes, and why not others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from compressor.errors import PassError
from compressor.passes.base import ENOUGH_TO_OBSERVE, OnnxPass, PassContext, WeightFormat
from compressor.passes.effort import Effort, reading_effort
from compressor.passes.saving import ModelParts, Saving, int8_on_cpu
from compressor.words import counted, verb_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.embedding_tables import Int4Tables
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight
    from compressor.passes.quantize.rounding import Rounding

ROWS_WITHOUT_COMPUTING = 10_000  # read where indices are inputs, so that counting them is cheap
_OLDEST_OPSET = 10  # the first with QuantizeLinear
_NO_SITE = (
    "no product and no lookup of the graph has constant weights, as where weights are inputs of "
    "it; export the model with its weights inside"
)
_LISTED = 20  # names in a message, before it says how many more there are


def _spelt_out(value: Any) -> Any:
    """Return what `true` stands for."""
    return "int8" if value is True else value


Embeddings = Annotated[Literal["int8", "int4", False], BeforeValidator(_spelt_out)]
BlockSize = Literal[16, 32, 64, 128, 256]


class WeightPass(OnnxPass):
    """A pass over the weights of products, with all that tells which of them it takes."""

    leaves_weights: ClassVar[WeightFormat | None] = "int8"
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = ("float32",)

    exclude: tuple[str, ...] = Field(
        (),
        description="patterns (* and ?) of weight or node names that stay in float; one that "
        "matches nothing is an error",
    )
    min_elements: int = Field(
        2048,
        ge=0,
        description="smallest number of weights in a matrix or table worth quantizing; smaller "
        "ones, such as a classifier head, save next to nothing",
    )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return what storing int8 on a CPU saves."""
        return int8_on_cpu(parts)

    def spare_rows_wanted(self) -> int:
        """Return as many rows as observing takes, where anything is observed."""
        return ENOUGH_TO_OBSERVE if "calibration" in self.required_splits() else 0

    def _check_calibration(self, context: PassContext) -> None:
        """Refuse a calibration split without rows, and note one with few that train cannot fill."""
        if "calibration" not in self.required_splits():
            return
        own, spare = context.calibration, context.calibration.spare
        if len(own) == 0:
            raise self._error(
                f"{context.calibration.source}: this pass runs calibration rows, and there are "
                f"none; give data.calibration at least one row"
            )
        if (found := len(own) + (0 if spare is None else len(spare))) < ENOUGH_TO_OBSERVE:
            context.note(
                f"Only {counted(found, 'calibration row')} could be read, which "
                f"{verb_for(found, 'says', 'say')} little of other inputs; give data.calibration "
                f"{ENOUGH_TO_OBSERVE} or more, or data.train, from which missing ones are taken."
            )

    def _float_graph(self, model: OnnxModel) -> ModelProto:
        """Return the graph, constants as initializers; refuse integers and old operators."""
        from compressor.onnx_graph.onnx_file import load_graph
        from compressor.onnx_graph.quantizable_weights import integer_operators, lift_constants

        graph = load_graph(model.path)
        if present := integer_operators(graph):
            raise self._error(
                f"the graph is already quantized (it has {', '.join(present)}); remove one of the "
                f"quantizing passes"
            )
        self._check_operator_set(graph, _OLDEST_OPSET, "integers to quantize to")
        lift_constants(graph)
        return graph

    def _check_operator_set(self, graph: ModelProto, oldest: int, lacking: str) -> None:
        """Refuse a graph of an operator set before `oldest`, which is `lacking` something."""
        from compressor.onnx_graph.element_types import opset_version

        if (version := opset_version(graph)) < oldest:
            raise self._error(
                f"the graph is of operator set {version}, which has no {lacking}; export it with "
                f"operator set {oldest} or newer"
            )

    def _candidates(self, weights: tuple[QuantizableWeight, ...]) -> list[QuantizableWeight]:
        found = [weight for weight in weights if self._reason(weight) is None]
        if not found:
            raise self._error(
                f"nothing is left to quantize: {self._leftovers(weights) or _NO_SITE}"
            )
        return found

    def _reason(self, weight: QuantizableWeight) -> str | None:
        """Return why `weight` stays in float, None when it becomes an integer."""
        if any(_matches(pattern, weight) for pattern in self.exclude):
            return "excluded"
        if weight.num_elements < self.min_elements:
            return f"fewer than {self.min_elements} weights"
        return weight.obstacle

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:  # noqa: ARG002
        """Return what choosing by calibration rows takes; each kind of choice adds its own."""
        return Effort()

    def _check_patterns(self, weights: tuple[QuantizableWeight, ...]) -> None:
        for position, pattern in enumerate(self.exclude):
            if not any(_matches(pattern, weight) for weight in weights):
                names = [weight.name for weight in weights]
                raise self._error(
                    f"exclude[{position}]: '{pattern}' matches no weight and no node; weights are "
                    f"{listing(names)}"
                )

    def _leftovers(self, weights: tuple[QuantizableWeight, ...]) -> str:
        """Return what stays in float, grouped by reason."""
        groups: dict[str, list[str]] = defaultdict(list)
        for weight in weights:
            if (reason := self._reason(weight)) is not None:
                groups[reason].append(weight.name)
        return "; ".join(f"{listing(names)} ({reason})" for reason, names in groups.items())

    def _error(self, message: str) -> PassError:
        return PassError(message, kind=self.kind)


class SitePass(WeightPass):
    """A pass that stores the weights of products and embedding tables as integers."""

    embeddings: Embeddings = Field(
        "int8",
        description="how embedding tables are stored: with one scale for each row in int8, in half "
        "of that and less exactly with one for each block of a row in int4 (small ones, which "
        "every text reads, stay int8), or in float; true is int8",
    )
    embedding_block: BlockSize = Field(
        32, description="weights of an int4 table's row that share one scale"
    )
    refined_rows: int = Field(
        0,
        ge=0,
        description="rows of each int4 table, those that texts of the calibration split look up "
        "most often, that get four bits more: a thousand pieces are most of what a text is made of "
        "(of `rows` of them, or of 10,000 where the split has as many)",
    )
    rounding: Literal["nearest", "gptq"] = Field(
        "nearest",
        description="how a weight of a product becomes an integer: the nearest, or the one that "
        "changes the products least on unlabelled rows of the calibration split",
    )
    bias_correction: bool = Field(
        False,
        description="add to each bias what rounding its weights takes from the mean of the product "
        "on unlabelled rows of the calibration split",
    )
    rows: int = Field(
        512,
        gt=0,
        description="calibration rows, at most, that rounding gptq, bias_correction and "
        "refined_rows read, at their real lengths and without padding; memory does not grow with "
        "them",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when anything is chosen by its rows."""
        reads = self._rounds_by_rows() or self.refined_rows > 0
        return frozenset({"calibration"} if reads else ())

    def calibration_rows_wanted(self) -> int:
        """Return `rows` when any is read, and as many as refined tables count indices in."""
        if "calibration" not in self.required_splits():
            return 0
        return max(self.rows, ROWS_WITHOUT_COMPUTING if self.refined_rows else 0)

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        if "calibration" not in SitePass.required_splits(self):
            return found
        solved = Effort(seconds=10.0 if self.rounding == "gptq" else 2.0)
        return found + reading_effort(num_rows, self.rows, times=2) + solved

    def _rounds_by_rows(self) -> bool:
        return self.rounding != "nearest" or self.bias_correction

    def _rounding(self) -> Rounding:
        from compressor.passes.quantize.rounding import Rounding

        return Rounding(self.rounding, self.bias_correction, self.rows)

    def _int4_tables(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> Int4Tables:
        from compressor.onnx_graph.embedding_tables import NO_INT4, Int4Tables, reasons_against_int4

        if self.embeddings != "int4":
            return NO_INT4
        reasons = reasons_against_int4(weights)
        tables = [
            weight for weight in weights if weight.kind == "table" and weight.name not in reasons
        ]
        refined = {}
        if self.refined_rows:
            from compressor.passes.quantize.rows_seen import frequent_rows

            refined = frequent_rows(
                graph, tables, self.refined_rows, num_rows=self.rows, model=model, context=context
            )
        names = frozenset(table.name for table in tables)
        return Int4Tables(names, self.embedding_block, refined)

    def _without_int4(self) -> Self:
        """Return these settings with int4 tables, which lose the most, in int8."""
        return self.model_copy(update=self._int8_tables())

    def _int8_tables(self) -> dict[str, object]:
        return {"embeddings": self.embeddings and "int8", "refined_rows": 0}

    @model_validator(mode="after")
    def _refines_int4_tables(self) -> Self:
        if self.refined_rows and self.embeddings != "int4":
            raise ValueError(
                f"refined_rows: {self.refined_rows} is for int4 tables; write embeddings: int4, or "
                f"leave it out"
            )
        return self

    def _reason(self, weight: QuantizableWeight) -> str | None:
        """Return why `weight` stays in float, None when it becomes an integer."""
        if weight.kind == "table" and not self.embeddings:
            return "embeddings is false"
        return super()._reason(weight)

    def _report_tables(
        self,
        chosen: Iterable[QuantizableWeight],
        int4: Int4Tables,
        errors: dict[str, float],
        context: PassContext,
    ) -> None:
        """Note what the int4 tables lose, and which tables are none."""
        if self.embeddings != "int4":
            return
        from compressor.onnx_graph.embedding_tables import reasons_against_int4

        for name, error in errors.items():
            refined = len(int4.refined.get(name, ()))
            finer = f", its {refined:,} most frequent rows in two steps" if refined else ""
            context.note(
                f"{name} holds int4 weights, {self.embedding_block} to a scale{finer}; rounding "
                f"moves them by {100 * error:.1f}% (root mean square)."
            )
        for name, reason in reasons_against_int4(chosen).items():
            context.note(f"{name} is int8 and not int4: {reason}.")


def _matches(pattern: str, weight: QuantizableWeight) -> bool:
    return any(fnmatchcase(name, pattern) for name in (weight.name, *weight.nodes))


def listing(names: list[str]) -> str:
    """Return the first of `names`, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
