"""The record of a run so far, of which a report can be written at any moment."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.certificate import certify_scores
from compressor.errors import StepFailed
from compressor.measurements import (
    AttributionRecord,
    Certificate,
    CertificateReading,
    Certification,
    Environment,
    Flip,
    GapRecord,
    Latency,
    LengthRecord,
    ModelRecord,
    OwnCodeRecord,
    Parity,
    PassRecord,
    PassTry,
    PredictionRecord,
    RecallRecord,
    RuntimeLatency,
    SliceRecord,
    SplitRecord,
    StepRecord,
    TargetRecord,
    Uninformed,
    Verdict,
)
from compressor.report.run_report import RunReport
from compressor.tasks import Guess
from compressor.tasks.outputs import LabelArray
from compressor.tasks.pooling import Pooling
from compressor.training.settings import PLACES

# Why a part of the report can be missing, when the run never came so far.
_NOT_REACHED = "the run stopped before this was measured"
AS_WRITTEN = "as the recipe says"


@dataclass
class RunLog:
    """The facts of one run; the pipeline fills it in and nobody else changes it."""

    recipe: Mapping[str, Any]
    recipe_name: str
    max_drop: float
    environment: Environment
    source_checkpoint: str
    own_code: tuple[OwnCodeRecord, ...] = ()
    task: str | None = None
    metric: str | None = None
    labels: tuple[str, ...] = ()
    pooling: Pooling | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    lengths: LengthRecord | None = None
    source_sha256: str | None = None
    source_bytes: int | None = None
    baseline: ModelRecord | None = None
    final: ModelRecord | None = None
    passes: list[PassRecord] = field(default_factory=list)
    parity: Parity | None = None
    latencies: tuple[Latency, ...] = ()
    runtimes: tuple[RuntimeLatency, ...] = ()
    splits: tuple[SplitRecord, ...] = ()
    certification: Certification | None = None
    certificate: Certificate | None = None
    certificate_readings: tuple[CertificateReading, ...] = ()
    inconclusive_allowed: bool = False
    steps: list[StepRecord] = field(default_factory=list)
    damaged_steps: list[str] = field(default_factory=list)
    compared_split: str | None = None
    slices: tuple[SliceRecord, ...] = ()
    gaps: tuple[GapRecord, ...] = ()
    recalls: tuple[RecallRecord, ...] = ()
    attributions: AttributionRecord | None = None
    flips: tuple[Flip, ...] = ()
    predictions: tuple[PredictionRecord, ...] = ()
    target: TargetRecord | None = None
    chance: Uninformed | None = None
    doubts: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    rows_to_certify: int | None = None
    _started: float = field(default_factory=time.monotonic)
    _started_at: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )

    def score_now(self) -> float:
        """Return the score of the model as the last pass left it; call it after the baseline."""
        assert self.baseline is not None
        scores = [record.score_after for record in self.passes if record.score_after is not None]
        return scores[-1] if scores else self.baseline.score.value

    def pass_record(
        self,
        kind: str,
        shown: PassTry,
        tries: Iterable[PassTry],
        *,
        notes: Iterable[str],
        facts: Mapping[str, Any],
        reused: bool,
    ) -> PassRecord:
        """Return the record of a pass for which the try `shown` stands."""
        return PassRecord(
            kind=kind,
            settings=shown.settings,
            score_before=self.score_now(),
            score_after=shown.score_after,
            drop=shown.drop,
            size=shown.size,
            verdict=shown.verdict,
            seconds=shown.seconds,
            notes=tuple(notes),
            facts=facts,
            tries=tuple(tries),
            reused=reused,
        )

    def costliest_pass(self) -> tuple[str, float] | None:
        """Return name and cost of the pass so far that lost most; None when none lost anything."""
        costs = [
            (record.score_before - record.score_after, f"passes[{position}] ({record.kind})")
            for position, record in enumerate(self.passes)
            if record.score_after is not None
        ]
        cost, name = max(costs, default=(0.0, ""))
        return (name, cost) if cost > 0 else None

    def certify(
        self,
        truth: LabelArray | None,
        guesses: Sequence[Guess],
        fingerprint: str,
        confidence: float,
        seed: int,
    ) -> None:
        """Say what the two scores on the certification split prove, or why they prove nothing."""
        assert self.certification is not None
        try:
            certificate = certify_scores(
                self.certification.baseline,
                self.certification.final,
                truth,
                guesses=guesses,
                max_drop=self.max_drop,
                confidence=confidence,
                seed=seed,
            )
        except StepFailed as error:  # one class only, or a score that never varies
            self.missing["certificate"] = str(error)
        else:
            self.certificate = dataclasses.replace(certificate, data_fingerprint=fingerprint)

    def provenance(self) -> dict[str, Any]:
        """Return what a manifest says about where an artifact came from and how good it is.

        Call it when both ends are measured.
        """
        assert self.baseline is not None
        assert self.final is not None
        own = {item.key: [item.function, item.sha256] for item in self.own_code}
        outputs = [step.facts["output"] for step in self.passes if "output" in step.facts]
        return {
            **({"own_code": own} if own else {}),
            # What the graph gives, where a pass made something else of it than floats.
            **({"output": outputs[-1]} if outputs else {}),
            "recipe": _to_ship(self.recipe),
            # What ran, which a repair may have made milder than what the recipe says.
            "passes": [
                {"kind": step.kind, "settings": _to_ship(step.settings)} for step in self.passes
            ],
            "source": {
                "checkpoint": _to_ship(self.source_checkpoint),
                "sha256": self.source_sha256,
            },
            "scores": {
                "metric": self.metric,
                "num_examples": self.final.score.num_examples,
                "baseline": self.baseline.score.value,
                "final": self.final.score.value,
            },
        }

    def report(self, verdict: Verdict, reason: str, guilty_step: str | None) -> RunReport:
        """Return the report of everything known now."""
        missing = dict(self.missing)
        for name in ("baseline", "final", "parity"):
            if getattr(self, name) is None:
                missing.setdefault(name, _NOT_REACHED)
        if not self.latencies:
            missing.setdefault("latencies", _NOT_REACHED)
        return RunReport(
            verdict=verdict,
            reason=reason,
            guilty_step=guilty_step,
            recipe=self.recipe,
            recipe_name=self.recipe_name,
            task=self.task,
            metric=self.metric,
            max_drop=self.max_drop,
            baseline=self.baseline,
            final=self.final,
            passes=tuple(_as_it_ended(record, verdict) for record in self.passes),
            parity=self.parity,
            latencies=self.latencies,
            runtimes=self.runtimes,
            splits=self.splits,
            certification=self.certification,
            certificate=self.certificate,
            certificate_readings=self.certificate_readings,
            inconclusive_allowed=self.inconclusive_allowed,
            steps=tuple(self.steps),
            damaged_steps=tuple(self.damaged_steps),
            compared_split=self.compared_split,
            slices=self.slices,
            gaps=self.gaps,
            recalls=self.recalls,
            attributions=self.attributions,
            flips=self.flips,
            predictions=self.predictions,
            target=self.target,
            chance=self.chance,
            doubts=tuple(self.doubts),
            environment=self.environment,
            missing=missing,
            seconds=time.monotonic() - self._started,
            started_at=self._started_at,
            labels=self.labels,
            thresholds=self.thresholds,
            embedding=None if self.pooling is None else self.pooling.record(),
            lengths=self.lengths,
            source_checkpoint=self.source_checkpoint,
            source_sha256=self.source_sha256,
            source_bytes=self.source_bytes,
            rows_to_certify=self.rows_to_certify,
            own_code=self.own_code,
        )


def _as_it_ended(record: PassRecord, verdict: Verdict) -> PassRecord:
    """Return the record of a pass that did not fail by itself where the run was cut short in it."""
    if verdict not in ("stopped", "internal_error") or record.verdict != "failed":
        return record
    tries = [
        dataclasses.replace(attempt, verdict=verdict) if attempt.verdict == "failed" else attempt
        for attempt in record.tries
    ]
    return dataclasses.replace(record, verdict=verdict, tries=tuple(tries))


def _to_ship(value: Any) -> Any:
    """Return plain data without what belongs to this machine alone.

    Of a path from the root the last part stays, so that an artifact names nobody's folders and is
    the same wherever it is made; where curves and teacher outputs lie changes no weight and goes.
    """
    if isinstance(value, Mapping):
        return {key: _to_ship(item) for key, item in value.items() if key not in PLACES}
    if isinstance(value, list | tuple):
        return [_to_ship(item) for item in value]
    return Path(value).name if isinstance(value, str) and _lies_here(value) else value


def _lies_here(text: str) -> bool:
    """Return whether a text is a path into a folder of this machine, as no label or pattern is.

    Of the folder itself the first part has to be there: that of `output` may be made by the run, or
    never, where --output names another one.
    """
    path = Path(text)
    return path.is_absolute() and len(path.parents) > 1 and path.parents[-2].is_dir()
