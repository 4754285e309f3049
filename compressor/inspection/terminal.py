"""An inspection as a person reads it on a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressor.inspection.facts import LogitChange, MatmulFacts, OnnxFacts, SaturationFacts
from compressor.report import units
from compressor.tasks.pooling import short_words
from compressor.words import counted, listing, verb_for

if TYPE_CHECKING:
    from compressor.inspection.checkpoint import CheckpointFacts, LayerFacts

_WORST = 12  # matmuls shown
_OPERATORS = 12  # operators shown
_MIN_SHARE = 0.005  # of the time; operators below are added up
_NAMES = {"feed_forward": "feed-forward"}


def render_onnx(facts: OnnxFacts) -> Group:
    """Return what to print about an .onnx file."""
    head = _facts(
        {
            "size": f"{units.megabytes(facts.bytes_on_disk)} MB, "
            f"{units.count(facts.parameters)} parameters",
            "made by": facts.producer or "not said",
            "operator sets": ", ".join(f"{name} {number}" for name, number in facts.opsets.items()),
            "reads": ", ".join(item.name for item in facts.inputs),
            "writes": ", ".join(item.name for item in facts.outputs),
            "runs as": _operators(facts.runtime_operators),
        }
    )
    components = _table("part", "MB", "share of the file")
    for name, size in vars(facts.components).items():
        components.add_row(
            _NAMES.get(name, name), units.megabytes(size), f"{size / facts.bytes_on_disk:.1%}"
        )
    return Group(
        _title(facts.path),
        head,
        *_not_finite(facts.not_finite),
        "",
        components,
        "",
        *_saturation(facts.saturation),
    )


def _not_finite(counts: Mapping[str, int]) -> Iterable[RenderableType]:
    """Yield what is wrong with weights that no computation survives."""
    if not counts:
        return
    worst = sorted(counts, key=lambda name: -counts[name])
    broken = sum(counts.values())
    yield Text(
        f"broken: {counted(broken, 'weight')} {verb_for(broken, 'is', 'are')} NaN or infinite, in "
        f"{listing(worst, _WORST)}; no pass takes it, train or export it again",
        style="bold red",
    )


def _saturation(facts: SaturationFacts) -> Iterable[RenderableType]:
    products = facts.products
    if facts.verdict == "no_integer_products":
        yield Text("int8: no integer matmuls, everything is computed in float", style="bold")
        return
    risky = [item for item in products if item.can_saturate]
    if not risky:
        yield Text(
            f"int8: exact everywhere ({counted(len(products), 'integer matmul')})",
            style="bold green",
        )
        yield Text(_why_exact(products))
        return
    yield Text(
        f"int8: can saturate on CPUs without VNNI, in {len(risky)} of {len(products)} integer "
        f"matmuls",
        style="bold yellow",
    )
    yield from _logits(facts.logits)
    risky.sort(key=lambda item: item.worst_16_bit_sum or 0, reverse=True)
    table = _table("weight", "K x N", "pairs at risk", "worst sum")
    for item in risky[:_WORST]:
        share = "not known"
        if item.pairs and item.risky_pairs is not None:
            share = f"{item.risky_pairs:,} ({item.risky_pairs / item.pairs:.2%})"
        table.add_row(
            Text(item.weight or item.node, overflow="fold"),
            "-" if item.inner is None else f"{item.inner} x {item.columns}",
            share,
            "-" if item.worst_16_bit_sum is None else f"{item.worst_16_bit_sum:,}",
        )
    yield ""
    yield table
    if len(risky) > _WORST:
        yield Text(f"and {len(risky) - _WORST} more; --json lists them all", style="dim")
    yield Text("A pair is two neighbours along K; sums beyond 32,767 saturate.", style="dim")
    yield Text(
        "Exact instead: this package's quantize_dynamic, unsigned or 7-bit weights, or "
        "session.x64quantprecision=1.",
        style="dim",
    )


def _logits(change: LogitChange | None) -> Iterable[RenderableType]:
    if change is None:
        yield Text("By how much it moves the logits could not be simulated for these operators.")
        return
    flips = ""
    if change.flips is not None:
        change_s = verb_for(change.flips, "changes", "change")
        flips = f", {change.flips} of {counted(change.rows, 'prediction')} {change_s}"
    yield Text(
        f"Simulated on {change.inputs}: logits move by at most {units.number(change.max_abs)}, RMS "
        f"{units.number(change.rms)} (the logits' own RMS is {units.number(change.rms_of_logits)})"
        f"{flips}."
    )


def _why_exact(products: tuple[MatmulFacts, ...]) -> str:
    packed = sum(item.operator == "MatMulNBits" for item in products)
    others = [item for item in products if item.operator != "MatMulNBits"]
    unsigned = sum(item.weights == "uint8" for item in others)
    signed = sum(item.activations == "int8" for item in others)
    bounded = sum(item.risk_known for item in others)
    reasons = {
        "with packed weights, whose kernels keep neighbours apart": packed,
        "with unsigned weights, which are widened first": unsigned,
        "with signed activations, which are widened first": signed,
        "whose pairs of weights cannot leave 16 bits": bounded,
    }
    return "; ".join(f"{number} {reason}" for reason, number in reasons.items() if number)


def _outputs(facts: CheckpointFacts) -> dict[str, str]:
    """Return what the model gives: labels, or vectors made in some way; nothing where neither."""
    made = facts.embedding
    if made is None and not facts.labels:
        return {}
    if made is None:
        more = ", ..." if len(facts.labels) > 8 else ""
        tags = {} if facts.about_labels is None else {"read as": facts.about_labels}
        return {"labels": ", ".join(facts.labels[:8]) + more, **tags}
    words = short_words(made.pooling, normalize=made.normalize)
    source = "by default" if made.source is None else f"says {made.source}"
    found = {"vectors": f"{words} ({source})"}
    return found | ({"linear layers": "; ".join(made.dense)} if made.dense else {})


def render_checkpoint(facts: CheckpointFacts) -> Group:
    """Return what to print about a checkpoint."""
    tool, length = facts.tokenizer, facts.sequence_length
    read = "sample" if tool.vocabulary is None else "token"  # of a sound, of a text
    long = f" of {counted(length, read)}" if length else ""
    words = "" if tool.vocabulary is None else f", {counted(tool.vocabulary, 'piece')}"
    limit = "" if tool.max_length is None else f", {counted(tool.max_length, 'token')} at most"
    head = _facts(
        {
            "model": f"{facts.model_type}, {facts.task}",
            **_outputs(facts),
            "size": f"{units.megabytes(facts.bytes_on_disk)} MB, "
            f"{units.count(facts.parameters)} parameters",
            "work": f"{facts.flops / 1e9:,.3g} GFLOPs for one example{long}",
            "reads with": f"{tool.type}{words}{limit}",
            "pruning": "supported" if facts.prunable else f"not supported: {facts.prunable_reason}",
        }
    )
    parts = _table("part", "parameters", "MB", "size", "FLOPs", "time")
    for name, part in facts.components.items():
        spent = "-" if facts.time is None else f"{facts.time.by_component.get(name, 0.0):.1%}"
        parts.add_row(
            _NAMES.get(name, name),
            units.count(part.parameters),
            units.megabytes(part.bytes),
            f"{part.share:.1%}",
            f"{part.flops / facts.flops:.1%}" if facts.flops else "-",
            spent,
        )
    broken = _not_finite(facts.not_finite)
    blocks: list[RenderableType] = [_title(facts.path), head, *broken, "", parts]
    if facts.layers:
        blocks += ["", _layers(facts.layers)]
    if facts.time is not None:
        blocks += ["", Text(f"time by operator: {_by_operator(facts.time.by_operator)}")]
        blocks.append(
            Text(f"({counted(facts.time.num_runs, 'run')} on one thread, batch 1)", style="dim")
        )
    return Group(*blocks, "", _savings(facts))


def _layers(layers: tuple[LayerFacts, ...]) -> Table:
    """Return the layers, those that are alike and follow each other in one row."""
    table = _table("layers", "parameters each", "heads", "neurons", "MFLOPs each")
    groups: list[list[LayerFacts]] = []
    for layer in layers:
        if groups and _shape(groups[-1][0]) == _shape(layer):
            groups[-1].append(layer)
        else:
            groups.append([layer])
    for group in groups:
        first, last = group[0], group[-1]
        name = str(first.layer) if first is last else f"{first.layer}-{last.layer}"
        table.add_row(
            name,
            units.count(first.parameters),
            "-" if first.heads is None else str(first.heads),
            "-" if first.neurons is None else f"{first.neurons:,}",
            f"{first.flops / 1e6:,.0f}",
        )
    return table


def _shape(layer: LayerFacts) -> tuple[object, ...]:
    return layer.parameters, layer.flops, layer.heads, layer.neurons


def _savings(facts: CheckpointFacts) -> Table:
    table = _table("pass", "saves at most, MB", "of FLOPs", "what")
    table.columns[3].justify = "left"
    for item in facts.savings:
        saved = "-" if item.bytes_saved is None else units.megabytes(item.bytes_saved)
        work = "-" if item.flops_share is None else f"{item.flops_share:.0%}"
        reason = item.reason if item.supported else f"not supported: {item.reason}"
        table.add_row(item.kind, saved, work, Text(reason), style="" if item.supported else "dim")
    return table


def _by_operator(shares: Mapping[str, float]) -> str:
    shown = [f"{name} {share:.1%}" for name, share in shares.items() if share >= _MIN_SHARE]
    rest = sum(share for share in shares.values() if share < _MIN_SHARE)
    return ", ".join([*shown, f"others {rest:.1%}"] if rest else shown)


def _operators(counts: Mapping[str, int]) -> str:
    shown = [f"{name} x{number}" for name, number in counts.items()][:_OPERATORS]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} other operators" if more else "")


def _facts(rows: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _title(path: str) -> Text:
    return Text(path, style="bold", overflow="fold")
