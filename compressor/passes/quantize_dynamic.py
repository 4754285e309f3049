"""Int8 weights, activations quantized at run time: four times smaller, faster on CPUs, no data.

Weights have one scale for each output column (Jacob et al. 2018, arXiv:1712.05877), embedding
tables one for each row (as in Zafrir et al. 2019, arXiv:1910.06188, for BERT). Scales are chosen so
that ONNX Runtime's 16-bit sums cannot overflow on CPUs without VNNI (`quantization/affine.py`), and
the channels inside feed-forward blocks are reordered so that this costs next to no precision
(`quantization/reorder.py`). Activations have one scale for each token (as in Yao et al. 2022,
arXiv:2206.01861), because one for the whole batch is where most of the error came from
(`quantization/activations.py`).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.errors import PassError
from compressor.passes._base import OnnxPass, PassContext

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.quantization.sites import Site

logger = logging.getLogger(__name__)

_KEPT_BY_REPAIR = (1, 2, 4, 8)  # most sensitive weights that stay in float, one try after the other
_LISTED = 20  # names in a message, before it says how many more there are


class QuantizeDynamic(OnnxPass):
    """Store the weights of products and embedding tables as int8; needs no calibration data.

    Convolutions, biases and normalisations stay in float.
    """

    kind: Literal["quantize_dynamic"] = "quantize_dynamic"
    # CUDA has no kernels for these operators; there they would run on the CPU, slower than fp32.
    providers: ClassVar[tuple[str, ...] | None] = ("cpu",)

    activations: Literal["per_tensor", "per_token"] = Field(
        "per_token",
        description="what shares one 8-bit scale at run time: each token's vector, which keeps an "
        "answer independent of the other rows of its batch, or the whole tensor, which is about "
        "a tenth faster and less accurate",
    )
    smooth: bool = Field(
        False,
        description="divide channels that a normalisation makes large before their product, and "
        "multiply its weight instead: less error for one more multiplication where it helps; not "
        "after quantize_aware_train, whose weights fit the grid without it",
    )
    embeddings: bool = Field(True, description="also quantize embedding tables, one scale per row")
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
    keep_sensitive: int = Field(
        0,
        ge=0,
        description="number of weights that stay in float because they move the logits most for "
        "each byte that they would save, measured one by one on up to 128 unlabelled rows of the "
        "calibration split; at least one weight becomes int8, however many are named here",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when sensitive weights are to be found."""
        return frozenset({"calibration"} if self.keep_sensitive else ())

    def milder(self) -> Iterator[Self]:
        """Yield one scale for each token, then more sensitive weights and tables left in float."""
        one_per_token = self.model_copy(update={"activations": "per_token"})
        if one_per_token != self:
            yield one_per_token
        for count in _KEPT_BY_REPAIR:
            if count > self.keep_sensitive:
                yield one_per_token.model_copy(update={"keep_sensitive": count})
        if self.embeddings:
            yield one_per_token.model_copy(update={"embeddings": False})

    def apply(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the int8 graph and return it.

        Raises `PassError` when the graph is already quantized, when a pattern matches nothing, when
        nothing is left to quantize, and when a weight or, for `keep_sensitive`, a logit is not
        finite.
        """
        from compressor.models.onnx_file import load_graph, save_graph
        from compressor.models.onnx_model import OnnxModel
        from compressor.quantization.reorder import reorder_inner_channels
        from compressor.quantization.rewrite import quantize_sites
        from compressor.quantization.sites import find_sites, integer_operators, lift_constants
        from compressor.quantization.smoothing import smooth_normalized_inputs

        graph = load_graph(model.path)
        if present := integer_operators(graph):
            raise self._error(
                f"the graph is already quantized (it has {', '.join(present)}); remove one of the "
                f"quantizing passes"
            )
        lift_constants(graph)
        sites = find_sites(graph)
        self._check_patterns(sites)
        candidates = self._candidates(sites)
        try:
            smoothed = smooth_normalized_inputs(graph, candidates) if self.smooth else ()
            with context.progress.bar("ordering channels", None):
                reordered = reorder_inner_channels(graph, candidates)
            kept = self._most_sensitive(graph, candidates, model, context)
            chosen = [site for site in candidates if site not in kept]
            quantize_sites(graph, chosen, activations=self.activations)
        except ValueError as error:
            raise self._error(f"{error}; the checkpoint or the pass before is broken") from error
        path = context.work_dir / "model.onnx"
        save_graph(graph, path)
        self._report(sites, chosen, len(reordered), context)
        if self.smooth:
            context.note(f"Large channels smoothed before {len(smoothed)} of the matrices.")
        if kept:
            names = _listing([site.weight for site in kept])
            context.note(f"Left in float, the most sensitive for each byte: {names}.")
        return OnnxModel(path, provider=model.provider, threads=model.threads)

    def _candidates(self, sites: tuple[Site, ...]) -> list[Site]:
        found = [site for site in sites if self._reason(site) is None]
        if not found:
            raise self._error(f"nothing is left to quantize: {self._leftovers(sites) or 'no site'}")
        return found

    def _most_sensitive(
        self, graph: ModelProto, sites: list[Site], model: OnnxModel, context: PassContext
    ) -> tuple[Site, ...]:
        """Return the sites that stay in float because they cost most for each byte."""
        if self.keep_sensitive == 0:
            return ()
        from compressor.passes._sensitivity import sites_to_keep

        return sites_to_keep(
            graph,
            sites,
            min(self.keep_sensitive, len(sites) - 1),
            activations=self.activations,
            model=model,
            context=context,
        )

    def _reason(self, site: Site) -> str | None:
        """Return why `site` stays in float, None when it becomes int8."""
        if any(_matches(pattern, site) for pattern in self.exclude):
            return "excluded"
        if site.kind == "table" and not self.embeddings:
            return "embeddings is false"
        if site.num_elements < self.min_elements:
            return f"fewer than {self.min_elements} weights"
        return site.obstacle

    def _check_patterns(self, sites: tuple[Site, ...]) -> None:
        for position, pattern in enumerate(self.exclude):
            if not any(_matches(pattern, site) for site in sites):
                names = [site.weight for site in sites]
                raise self._error(
                    f"exclude[{position}]: '{pattern}' matches no weight and no node; weights are "
                    f"{_listing(names)}"
                )

    def _leftovers(self, sites: tuple[Site, ...]) -> str:
        """Return what stays in float, grouped by reason."""
        groups: dict[str, list[str]] = defaultdict(list)
        for site in sites:
            if (reason := self._reason(site)) is not None:
                groups[reason].append(site.weight)
        return "; ".join(f"{_listing(names)} ({reason})" for reason, names in groups.items())

    def _report(
        self, sites: tuple[Site, ...], chosen: list[Site], reordered: int, context: PassContext
    ) -> None:
        tables = sum(site.kind == "table" for site in chosen)
        done = f"{len(chosen) - tables} matrices and {tables} embedding tables hold int8 weights"
        logger.info("quantize_dynamic: %s", done)
        context.note(f"{done}, {sum(site.num_elements for site in chosen):,} weights in all.")
        if reordered:
            context.note(f"Inner channels reordered before {reordered} of the matrices.")
        if leftovers := self._leftovers(sites):
            context.note(f"Left in float: {leftovers}.")

    def _error(self, message: str) -> PassError:
        return PassError(message, kind=self.kind)


def _matches(pattern: str, site: Site) -> bool:
    return any(fnmatchcase(name, pattern) for name in (site.weight, *site.nodes))


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
