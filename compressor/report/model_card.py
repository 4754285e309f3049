"""The README that travels with an artifact: front matter for the Hub, use without torch, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from compressor.measurements import PassRecord, RunReport
from compressor.own_code import is_reference
from compressor.passes import PASSES
from compressor.report import certificates, gains, provenance, scores, units, verdict
from compressor.report.table import final_output
from compressor.report.task_words import about_labels, output_name, words_of
from compressor.report.templating import fill_markdown
from compressor.runtime.openvino_session import (
    OPENVINO,
    PRECISION_HINT,
    REQUIREMENT,
    Precision,
    openvino_properties,
)
from compressor.tasks.thresholds import USUAL

# `organisation/name`, the form of a model's name on the Hugging Face Hub.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The names under which the Hub knows a metric, where they differ from ours.
_HUB_METRICS = {"f1_macro": "f1", "spearman": "spearmanr"}

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    OPENVINO: "CPUExecutionProvider",  # of ONNX Runtime, which runs the same file
}


def render_model_card(report: RunReport, *, min_onnxruntime: str | None = None) -> str:
    """Return `README.md` for an artifact, from the content of its run's `report.json`.

    `min_onnxruntime` is the oldest release that runs the graph, left out where nobody asked.
    The license is left out: a report does not know it, and a wrong one is worse than none.
    """
    return fill_markdown(
        "model_card.md.j2",
        report=report,
        front_matter=_front_matter(report),
        title=_title(report),
        source=_source(report),
        headline=verdict.headline(report),
        gained=gains.gained_words(report, with_speed=False),  # a time is of the machine
        rows=_before_and_after(report),
        passes=[(item.kind, provenance.own_settings(item.settings)) for item in report.passes],
        embedding=provenance.embedding_words(report.embedding),
        about_labels=about_labels(report),
        output=output_name(report),
        vector_form=_vector_form(report),
        words=words_of(report),
        code=_code(report),
        limits=_limits(report),
        openvino=_openvino(report),
        runtime=f'"onnxruntime>={min_onnxruntime}"' if min_onnxruntime else "onnxruntime",
    )


def _openvino(report: RunReport) -> dict[str, str] | None:
    """Return what the card says of OpenVINO, None for an artifact that is not for it."""
    if provenance.value_at(report.recipe, "export", "provider") != OPENVINO:
        return None
    precision: Precision = "bf16" if _is_bf16(report) else "fp32"
    hints = openvino_properties(threads=None, precision=precision)
    told = {name: hints[name] for name in (PRECISION_HINT, "DYNAMIC_QUANTIZATION_GROUP_SIZE")}
    code = (
        f"import openvino\n\nhints = {told!r}\n"
        f'model = openvino.Core().compile_model("model.onnx", "CPU", hints)\n'
        f'outputs = model(inputs)["{output_name(report)}"]\n'
    )
    return {"precision": precision, "code": code, "requirement": REQUIREMENT}


def _is_bf16(report: RunReport) -> bool:
    return provenance.value_at(report.recipe, "export", "precision") == "bf16"


def _front_matter(report: RunReport) -> str:
    known = [item for item in report.passes if item.kind in PASSES]
    groups = [PASSES[item.kind].settings.about.group for item in known]
    tags = ["onnx", "onnxruntime", "compressor"]
    tags += ["openvino"] * (_openvino(report) is not None)
    tags += ["int8"] * ("quantize" in groups)
    halves = [item for item, group in zip(known, groups, strict=True) if group == "precision"]
    tags += ["bf16" if item.settings.get("dtype") == "bfloat16" else "fp16" for item in halves]
    tags += ["pruned"] * ("prune" in groups)
    fields: dict[str, object] = {"library_name": "onnx"}
    if report.task:
        fields["pipeline_tag"] = words_of(report).hub_task or report.task
    fields["tags"] = tags
    if _HUB_ID.fullmatch(report.source_checkpoint):
        fields["base_model"] = report.source_checkpoint
    if report.metric and not is_reference(report.metric):  # one that nobody else knows
        fields["metrics"] = [_HUB_METRICS.get(report.metric, report.metric)]
    if results := _results(report):
        fields["model-index"] = [{"name": _title(report), "results": results}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _results(report: RunReport) -> list[dict[str, object]]:
    """Return what was measured, in the form of the Hub's `model-index`.

    The search rows, and those that were kept apart where there were some.
    """
    if report.final is None or not report.task or not report.metric:
        return []
    scored = {"search": report.final.score.value}
    if report.certification is not None:
        scored["certification"] = report.certification.final.value
    kind = _HUB_METRICS.get(report.metric, report.metric)
    task = {"type": words_of(report).hub_task or report.task}
    return [
        {
            "task": dict(task),
            "dataset": _dataset(report, split),
            "metrics": [{"type": kind, "value": value, "name": units.title(report.metric)}],
        }
        for split, value in scored.items()
    ]


def _dataset(report: RunReport, split: str) -> dict[str, str]:
    """Return the name of a split's data set: on the Hub, or of the file without its folders."""
    given = provenance.value_at(report.recipe, "data", split)
    own: Mapping[str, object] = given if isinstance(given, Mapping) else {}
    if hub := own.get("hub"):
        subset = {"config": str(own["subset"])} if own.get("subset") else {}
        return {"name": str(hub), "type": str(hub), **subset, "split": str(own.get("split") or "")}
    named = [own.get(key) for key in ("path", "corpus", "images", "sounds", "builtin", "sklearn")]
    name = next((re.split(r"[\\/]", str(item))[-1] for item in named if item), split)
    return {"name": name, "type": "custom", "split": split}


def _source(report: RunReport) -> str:
    """Return the checkpoint's name without the folders of the machine that made the artifact."""
    source: str = report.source_checkpoint
    if _HUB_ID.fullmatch(source):
        return source
    return re.split(r"[\\/]", source.rstrip("\\/"))[-1]


def _title(report: RunReport) -> str:
    return f"{_source(report) or 'Encoder'}, compressed"


def _before_and_after(report: RunReport) -> list[tuple[str, str, str]]:
    before, after = report.baseline, report.final
    if before is None or after is None:
        return []
    metric = report.metric
    values = [units.score(metric, end.score.value) for end in (before, after)]
    num_bytes = (gains.given_bytes(report), after.size.bytes_on_disk)
    sizes = [units.megabytes(number) for number in num_bytes]
    counts = [units.count(end.size.parameters) for end in (before, after)]
    name, proof = units.title(metric), report.certification
    apart = []
    if proof is not None:
        kept = scores.rows_words(report, proof.final.num_examples)
        old, new = (units.score(metric, end.value) for end in (proof.baseline, proof.final))
        apart = [(f"{name} on {kept} kept apart", old, new)]
    vectors = []
    if (output := final_output(report)) is not None:
        old, new = (f"{output[key]:,}" for key in ("baseline_bytes", "bytes"))
        vectors = [("Bytes of a vector", old, new)]
    return [
        *apart,
        (f"{name} on {scores.search_rows(report)}", values[0], values[1]),
        ("Model file, MB", sizes[0], sizes[1]),
        ("Parameters", counts[0], counts[1]),
        *vectors,
    ]


def _vector_form(report: RunReport) -> str:
    """Say of which type and shape vectors are, for a task that gives some."""
    output = final_output(report)
    if output is None:
        return "float32 of shape (batch, width)"
    if output["dtype"] == "uint8":
        return (
            "uint8 of shape (batch, bytes), the signs of eight numbers in a byte, the first in its "
            "highest bit"
        )
    return f"int8 of shape (batch, width), times {output['scale']:.6g} the numbers"


def _code(report: RunReport) -> str:
    provider = str(provenance.value_at(report.recipe, "export", "provider") or "cpu")
    words = words_of(report)
    code = words.code if final_output(report) is None else words.code_of_bytes
    return code.format(
        provider=repr(_PROVIDERS.get(provider, provider)),
        max_length=_max_length(report),
        labels=repr(list(report.labels)),
        thresholds=repr([report.thresholds.get(name, USUAL) for name in report.labels]),
    )


def _max_length(report: RunReport) -> str:
    """Return how many tokens the artifact reads, for the code; its tokenizer says so too."""
    lengths = report.lengths
    return "tokenizer.model_max_length" if lengths is None else str(lengths.artifact)


def _shares_a_range(item: PassRecord) -> bool:
    """Return whether a pass gave activations one range for a batch, or chose that form."""
    race: Any = item.facts.get("race", ())
    chosen = [each.get("form") for each in race if each.get("chosen")]
    return "per_tensor" in (item.settings.get("activations"), *chosen)


def _limits(report: RunReport) -> list[str]:
    limits = [
        "The score is one measurement on the data named above. Measure on your own data before you "
        "rely on it: a small average change can hide a larger one for some inputs.",
        "Everything the original checkpoint cannot do or gets wrong, this model inherits.",
    ]
    if report.certification is not None:
        limits[0] = _certified(report) + " " + limits[0]
    limits += certificates.doubts(report)
    if lengths := provenance.length_words(report):
        limits.append(lengths)
    if own_code := provenance.own_code_words(report):
        limits.append(own_code)
    if elsewhere := provenance.judged_elsewhere(report):
        limits.append(elsewhere)
    if any(map(_shares_a_range, report.passes)):
        limits.append(
            "Activations are quantized when the model runs, with one range for a whole batch, so a "
            "prediction can depend slightly on the other rows of its batch."
        )
    return limits


def _certified(report: RunReport) -> str:
    proof = certificates.certificate_words(report)
    return f"{certificates.certification_words(report)}." + (f" {proof}." if proof else "")
