"""How each number was taken, on which data and on which machine, in words a stranger can follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import yaml

from compressor.measurements import EmbeddingRecord, Latency, Parity, RunReport
from compressor.report import units
from compressor.report.task_words import cuts_texts
from compressor.runtime.openvino_session import OPENVINO
from compressor.tasks.pooling import mode_words
from compressor.words import counted, noun_for, verb_for

# With 2 runs one file was 0.7 to 2.6 times as fast as itself, with 4 0.94 to 1.15 times, with 10 at
# most 3% off.
_ENOUGH_RUNS = 10


def methods(report: RunReport) -> list[tuple[str, str]]:
    """Return title and explanation for each kind of number in the report."""
    return [
        ("Score", _score_method(report)),
        ("Points", "One point is 0.01 of the metric. A change is against the baseline, not against "
         "the step before; the budget is cumulative."),
        ("Size", "The model file alone, without tokenizer: the weights after a PyTorch pass, the "
         "ONNX file otherwise, in float32 for the baseline. How much smaller the artifact is, is "
         "said of the weight files that were given. 1 MB is 1,000,000 bytes. The share of "
         "zero parameters is not a saving by itself: a zero takes as much room on disk and as much "
         "time as any other number, unless the file is compressed."),
        ("Latency", _latency_method(report)),
        *(("Earlier runs", text) for text in [_reuse_words(report)] if text),
    ]  # fmt: skip


def embedding_words(embedding: EmbeddingRecord | None) -> str | None:
    """Say how a sentence encoder makes its vectors; None for a model that gives none."""
    if embedding is None:
        return None
    words = f"A vector is {mode_words(embedding.pooling)}"
    if embedding.dense:
        words += f", mapped by {counted(len(embedding.dense), 'linear layer')} "
        words += f"({'; '.join(embedding.dense)})"
    words += ", scaled to length 1" if embedding.normalize else ", not scaled"
    source = embedding.source
    words += (
        f", as the checkpoint's {source} says" if source else ", as the recipe or its defaults say"
    )
    if embedding.max_length is not None:
        words += (
            f"; the checkpoint reads at most {counted(embedding.max_length, 'token')} of a text"
        )
    return f"{words}.{_prompt_words(embedding)}"


def _prompt_words(embedding: EmbeddingRecord) -> str:
    """Say which prompts there are, and that the graph has none of them; nothing without any."""
    prompts = {name: text for name, text in embedding.prompts.items() if text}
    if not prompts:
        return ""
    listed = ", ".join(f"{name} ({text!r})" for name, text in prompts.items())
    one = len(prompts) == 1
    words = f" It has {'a prompt' if one else 'prompts'}, read before a text: {listed}. "
    if embedding.default_prompt in prompts:
        words += f"Where nothing else is said, that is {embedding.default_prompt}. "
    return words + (
        "They are not in the graph: `load_artifact` puts them there (`prompt_name`), and with "
        "plain onnxruntime each text has to begin with its own."
    )


def length_words(report: RunReport) -> str | None:
    """Say how long a text or sound the artifact reads, and up to which length it was measured.

    None for images, and where the run stopped before the artifact was scored.
    """
    lengths = report.lengths
    if lengths is None or report.final is None:
        return None
    own, artifact, longest = lengths.checkpoint, lengths.artifact, lengths.longest
    noun = "sound" if lengths.unit == "sample" else "text"
    words = f"The artifact reads up to {counted(artifact, lengths.unit)} of a {noun}"
    if not cuts_texts(report):
        words += " at a time"
    key = lengths.limited_by
    if key is not None and key.startswith("passes."):
        reads = "names no limit" if own is None else f"reads {own:,}"
        words += f", as the student does ({key})"
        words += "" if own == artifact else f"; the checkpoint {reads}"
    elif own is None:
        words += ", as export.max_length says: the checkpoint names no limit"
    elif own > artifact:
        words += f", as the recipe says; the checkpoint reads {own:,}"
    else:
        words += ", as the checkpoint does"
    share = lengths.num_cut / max(1, lengths.num_examples)
    cut = f"{lengths.num_cut:,} of the {lengths.num_examples:,} ({share:.1%}) are longer"
    if longest >= artifact:
        words += ". It was measured up to that length"
        if lengths.num_cut:
            words += f": {cut}, and neither model read the rest of them"
        return f"{words}."
    words += f". It was measured on {noun}s of up to {counted(longest, lengths.unit)}"
    if lengths.num_cut:
        words += f": {cut}, and data.max_length cut them"
    return f"{words}. Longer {noun}s were not measured."


def own_code_words(report: RunReport) -> str | None:
    """Say which code of the user's own numbers come from; None where all is of this package."""
    parts = []
    for item in report.own_code:
        file, _, function = item.function.rpartition(":")
        code = f"{function} in {file} (SHA-256 {item.sha256})"
        if item.key == "budget.metric":
            parts.append(f"the scores are what {code} gives")
        else:
            parts.append(
                f"every row went through {code} before it was read, and the artifact does not hold "
                f"it: what it reads must be made the same way"
            )
    return f"Code of the user's own was run: {', and '.join(parts)}." if parts else None


def parity_words(parity: Parity, output: str = "logits") -> str:
    """Say how closely the exported file follows the PyTorch model, which gives `output`."""
    lengths = parity.sequence_lengths
    inputs = counted(parity.num_examples, "real input")
    text = (
        f"On {inputs} the {output} of the exported file "
        f"differ from PyTorch's by at most {parity.max_abs_diff:.2g} (allowed: "
        f"{parity.limit:.2g})"
        if math.isfinite(parity.max_abs_diff)
        else f"The {output} of {inputs} could not be compared"
    )
    if lengths:
        tokens = noun_for(max(lengths), "token")
        text += f", at padded lengths of {', '.join(map(str, lengths))} {tokens}"
    return f"{text}."


def recipe_yaml(report: RunReport) -> str:
    """Return the resolved recipe as YAML."""
    text: str = yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True, width=100)
    return text


def environment_rows(report: RunReport) -> list[tuple[str, str]]:
    """Return the facts about the machine, one line each."""
    facts = dict(report.environment)
    if isinstance(variables := facts.get("variables"), dict):
        facts["variables"] = [f"{name}={value}" for name, value in variables.items()]
    return [(key.replace("_", " "), plain_text(value)) for key, value in facts.items()]


def value_at(facts: object, *keys: str) -> object:
    """Return what lies at `keys` in nested mappings, such as a recipe; None where nothing does."""
    for key in keys:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def own_settings(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return a pass's settings, nested ones spelled as the recipe's `--set` does."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += [(f"{key}.{inner}", text) for inner, text in own_settings(value)]
        else:
            rows.append((key, plain_text(value)))
    return rows


def plain_text(value: object) -> str:
    """Return a JSON value as text for a table: lists and mappings on one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(item) for item in value) or "none"
    if isinstance(value, Mapping):
        items = (f"{key.replace('_', ' ')} {plain_text(item)}" for key, item in value.items())
        return "; ".join(items) or "none"
    return str(value)


def _score_method(report: RunReport) -> str:
    metric = report.metric
    if metric is None or report.baseline is None:
        return "Not measured."
    found = units.metric_of(metric)
    text = f"{units.title(metric)}{'' if found is None else f': {found.explained}'}. "
    examples = report.baseline.score.num_examples
    seed = report.environment.get("seed", report.recipe.get("seed"))
    where = judged_elsewhere(report)
    return (
        f"{text}Taken on {counted(examples, 'example')} of the search split, the same for "
        f"every row of the table. The baseline and PyTorch passes run in PyTorch, later passes and "
        f"the final artifact in {judging_runtime(report)}, from the very file that ships. "
        f"{where}{' ' if where else ''}Seed {plain_text(seed)}."
    )


def judged_elsewhere(report: RunReport) -> str:
    """Say that graphs were judged on another provider than theirs; nothing when they were not."""
    judged_on, made_for = judging_providers(report)
    if judged_on in (None, made_for):
        return ""
    return (
        f"Judged on the provider {judged_on}, not on {made_for}, which the artifact is "
        f"for: predictions there may differ by rounding."
    )


def judging_runtime(report: RunReport) -> str:
    """Return in words what computed the scores of graphs."""
    if value_at(report.recipe, "export", "provider") != OPENVINO:
        return "ONNX Runtime"
    precision = value_at(report.recipe, "export", "precision") or "fp32"
    return f"OpenVINO, computing in {precision}"


def _timing_runtimes(report: RunReport) -> str:
    """Return in words what ran what was timed; OpenVINO with what it computes in."""
    providers = {entry.provider for entry in report.latencies}
    found = ["ONNX Runtime"] if providers - {OPENVINO} else []
    if OPENVINO in providers:
        precision = value_at(report.recipe, "export", "precision")
        own = f" (the artifact in {precision}, the baseline in fp32)" if precision else ""
        found.append(f"OpenVINO{own}")
    return " and ".join(found)


def judging_providers(report: RunReport) -> tuple[object, object]:
    """Return the provider that graphs were judged on where it was set, and the artifact's own."""
    export = report.recipe.get("export")
    return value_at(export, "evaluate_on"), value_at(export, "provider")


def duration_words(report: RunReport) -> str:
    """Say how long the run took, with the steps that an earlier run into the directory did."""
    seconds, reused = report.seconds, [step for step in report.steps if step.reused]
    this_call = units.duration(seconds)
    if math.isnan(seconds) or not reused:
        return this_call
    whole = seconds + sum(step.seconds for step in reused)
    earlier = units.duration(whole - seconds)
    return f"{units.duration(whole)} in all: {this_call} in this run, {earlier} in earlier ones"


def _reuse_words(report: RunReport) -> str:
    """Say what was taken from an earlier run into the same directory; nothing when nothing was."""
    reused = [step for step in report.steps if step.reused]
    parts = []
    if reused:
        names = ", ".join(step.name for step in reused)
        saved = units.duration(sum(step.seconds for step in reused))
        steps = counted(len(report.steps), "step")
        parts.append(
            f"{len(reused)} of {steps} {verb_for(len(reused), 'was', 'were')} finished by an "
            f"earlier run into the same directory and taken from there, because nothing they "
            f"depend on had changed; they took {saved} then: {names}."
        )
    parts += [f"{text[:1].upper()}{text[1:]}." for text in report.damaged_steps]
    return " ".join(parts)


def _latency_method(report: RunReport) -> str:
    if not report.latencies:
        return "Not measured."
    runs = sorted({entry.num_runs for entry in report.latencies})
    threads = sorted({entry.threads for entry in report.latencies})
    warmup = value_at(report.recipe, "benchmark", "warmup_runs")
    noise = noise_words(report)
    after = "warm-up" if warmup is None else f"{warmup} warm-up runs"
    return (
        f"Wall time of one batch in {_timing_runtimes(report)}: median (p50), 95th (p95) and 99th "
        f"percentile of "
        f"{_either(runs)} {noun_for(max(runs), 'run')} after {after}, {_either(threads)} "
        f"{noun_for(max(threads), 'thread')}. Baseline and final artifact take turns within one "
        f"run, so that a busy machine slows both. The provider named is the one that really ran."
        f"{_clock_words(report.latencies)}{f' {noise}' if noise else ''}"
    )


def _clock_words(latencies: Sequence[Latency]) -> str:
    """Say what CPU time is, where it was measured; nothing otherwise."""
    if all(entry.cpu_p50_ms is None for entry in latencies):
        return ""
    return (
        " Where one thread of the CPU ran, its CPU time was taken beside the wall time: what the "
        "thread computed, without waiting for a core that others use. Load hardly changes it, so "
        "speed-ups are ratios of CPU times there, where a table does not say otherwise."
    )


def noise_words(report: RunReport) -> str:
    """Say how many latencies a busy machine spoilt, or too few runs; nothing when none."""
    latencies = report.latencies
    noisy = [entry for entry in latencies if entry.noisy]
    few = min((entry.num_runs for entry in latencies), default=_ENOUGH_RUNS)
    chance = ""
    if few < _ENOUGH_RUNS:
        chance = (
            f"Each latency is the median of {few} {noun_for(few, 'run')}, too few to tell a "
            f"speed-up from chance; set benchmark.num_runs to {_ENOUGH_RUNS} or more."
        )
    if not noisy:
        return chance
    advice = (
        "wall times say little; ratios of CPU times hold"
        if all(entry.cpu_p50_ms is not None for entry in noisy)
        else "read speeds and their ratios with care, or run the benchmark again on an idle machine"
    )
    return (
        f"Noisy: the machine was busy, and {len(noisy)} of "
        f"{counted(len(latencies), 'latency', 'latencies')} varied widely meanwhile, so {advice}."
        f"{f' {chance}' if chance else ''}"
    )


def _either(values: list[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)
