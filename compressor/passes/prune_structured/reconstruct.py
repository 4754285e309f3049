"""Least-squares reconstruction of each sub-layer's output after pruning, from the bottom up.

The target of a student's output projection is the teacher's sub-layer output plus the difference of
the residuals beside it, so errors of the layers below are corrected too; its inputs are those that
the student really computes.

What was tried on a 6-layer, 384-wide MiniLM (SST-2, 1,024 calibration rows, one seed, 60% of
encoder FLOPs removed; 1000 x KL from the teacher's predictions at temperature 2, on dev): diagonal
Fisher scores, 32.7; compensated scores (see `surgeon`), 19.7. Little or nothing came from ridge
1e-4 to 1e-2 (32.8 to 33.4, by Fisher) and from shrinking towards zero and not towards the old
weights (32.8). A trial version of the compensated scores (19.3; at 70% 34.4) gained little from
twice the rows (18.5), at 70% from weighting tokens by their gradients (30.7, at 60% 19.4), and lost
by pruning in two steps with new scores in between (20.0; at 70% 37.3).

Which rows are read matters more than how many. Most rows of SST-2's training file are short
phrases, dev has full sentences. At 60%, with some 20,000 tokens: 1,536 rows drawn evenly give 23.6
on dev and 15.8 on 1,000 other held-out sentences, 1,069 rows drawn in proportion to their length
17.8 and 13.8; three times as many of these 17.8 and 13.4. A trial that chose the units of each
sub-layer anew, on what the pruned layers below really give, took evenly drawn rows to 21.9 and
14.2. Weighting each token by its own squared gradient there fitted the calibration rows alone (0.95
on them, down from 5.6; 29.5 on dev): a few undecided rows outweigh all others.

Three seeds of 2,048 rows drawn by length (tools/compare_recovery.py --without-recovery; dev 89.68
before): 50% removed leaves 89.45 (89.33 to 89.68; KL 11.4), 60% 88.95 (88.76 to 89.11; KL 17.2).
One dev sentence is 0.11 points, so the seeds' spread is 3 sentences.

Few rows, drawn evenly, one seed, 40% removed (1000 x KL on every other dev row; 1,537 unknowns).
By Fisher scores: without least squares, with ridge 1e-3, with 1, and with the ridge of each
sub-layer that does best on rows left out:

| rows | tokens | none | 1e-3 | 1 | left out |
|--:|--:|--:|--:|--:|--:|
| 5 | 55 | 74 | 50 | 43 | 34 |
| 20 | 367 | 75 | 77 | 13.4 | 13.1 |
| 100 | 1,495 | 98 | 19.4 | 8.5 | 7.6 |
| 200 | 2,739 | | 11.4 | | 6.0 |

By compensated scores, the ridge left out: 41, 19.5, 10.4 and 7.6 (with 1e-3: 10.2 on 200 rows). On
400 rows, 5,352 tokens, ridges 1e-3 and 0.1 give the same with them, 6.6: there the settings do.

Ref: Kwon et al. 2022, arXiv:2204.09656, section 4.3; Park et al. 2024, arXiv:2308.03449.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.families.layers import Attention, ConstantOutput, Encoder, EncoderLayer
from compressor.passes.prune_structured.fisher import token_mask
from compressor.passes.prune_structured.layerwise import (
    LayerTrace,
    SubLayerTrace,
    TensorFiles,
    known_inputs,
    not_computed,
    run_layer,
    traced_layers,
)
from compressor.passes.prune_structured.least_squares import (
    Correction,
    InputCorrection,
    RidgeChoice,
)
from compressor.training.training_run import TrainingRun

_MOST_TOTALS = 4 << 30  # bytes of a teacher's totals that are kept in files
_SHARE_OF_DISK = 0.25  # of what is free there, at most


@dataclass(frozen=True)
class CalibrationInputs:
    """Inputs of a model in files, batch by batch, as `store_inputs` left them."""

    files: TensorFiles
    num_batches: int
    num_rows: int
    num_distinct_rows: int  # that are not the copy of another row
    num_tokens: int  # without padding
    num_distinct_tokens: int  # without padding, of those rows
    numbers: tuple[tuple[int, ...], ...]  # of the rows of each batch; copies have the same one
    held: tuple[dict[str, Tensor], ...] | None = None  # on the way to other processes

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.num_batches

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        """Read one batch."""
        if not 0 <= batch < self.num_batches:
            raise IndexError(batch)
        return self.files.get("inputs", batch)

    def to_send(self, team: Team) -> CalibrationInputs:
        """Return inputs that other processes of a `team` can be sent; alone, these."""
        if team.is_alone:
            return self
        held = tuple(
            {name: value.cpu() for name, value in self[batch].items()} for batch in range(len(self))
        )
        return replace(self, held=held)

    def received(self, run: TrainingRun) -> CalibrationInputs:
        """Return the inputs that `to_send` gave where they are used, in files of this process."""
        if self.held is None or run.team.leads:
            return self
        files = TensorFiles(run.work_dir / "calibration", run.device)
        for batch, inputs in enumerate(self.held):
            files.put("inputs", batch, inputs)
        return replace(self, files=files, held=None)

    def rows_of(self, batch: int, mask: Tensor) -> Tensor:
        """Return the number of the distinct row that each token under `mask` is of.

        `mask` has shape `(rows, tokens)`; the result is as long as there are true values in it.
        """
        numbers = torch.tensor(self.numbers[batch], device=mask.device)
        return numbers[:, None].expand(mask.shape)[mask]

    @property
    def mean_length(self) -> float:
        """Return the mean number of tokens of a row."""
        return self.num_tokens / self.num_rows


def totals_can_be_kept(encoder: Encoder, calibration: CalibrationInputs) -> bool:
    """Return whether `keeping_totals` works for the encoder, and there is room for its files."""
    if encoder.parts.repeated is not None:
        return False
    path = encoder.parts.feed_forward.ffn_out
    per_output = next(encoder.layer_list[0].get_submodule(path).parameters())
    bytes_of_token = len(per_output) * per_output.element_size()
    needed = 2 * encoder.depth * calibration.num_tokens * bytes_of_token
    return needed <= min(_MOST_TOTALS, _SHARE_OF_DISK * calibration.files.free_bytes())


def keeping_totals(
    encoder: Encoder, calibration: CalibrationInputs, advance: Callable[[], object]
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches, and keep what the sub-layers of `encoder` add up to when it is run on one.

    That is all that `reconstruct` asks of a teacher like `encoder`, which then need not be run
    again. `advance` is called when a batch has been used.
    """
    files = calibration.files
    for batch in range(len(calibration)):

        def keep(index: int, trace: LayerTrace, batch: int = batch) -> None:
            assert trace.feed_forward is not None
            totals = {"attention": trace.attention.total, "total": trace.feed_forward.total}
            files.put(_totals_of(index), batch, totals)

        with traced_layers(encoder, keep):
            yield calibration[batch]
        advance()


def _totals_of(index: int) -> str:
    return f"totals-{index}"


def most_unknowns(layers: Sequence[EncoderLayer]) -> int:
    """Return the most unknowns that least squares has in a sub-layer."""
    return 1 + max(
        width
        for layer in layers
        for width in (
            layer.num_heads * (layer.attention.head_dim if layer.attention else 0),
            layer.num_neurons,
        )
    )


def reconstruct(
    student: Encoder,
    teacher: Encoder | None,
    calibration: CalibrationInputs,
    *,
    ridge: float,
    advance: Callable[[], object],
    leaves_out: bool = False,
    refits_inputs: bool = False,
    team: Team = ALONE,
) -> dict[str, RidgeChoice]:
    """Fit every output projection of `student`, in place, to what `teacher` computes.

    Both have the same layers and hidden size; heads and neurons may differ. `ridge` is a fraction
    of the mean diagonal of the Gram matrix and holds weights to what they are, so a student that
    equals its teacher stays as it is. Of a sub-layer without units the constant is fitted. Models
    are put into evaluation mode; `advance` is called twice a layer and batch.

    With `leaves_out`, for few rows, each sub-layer has a ridge of its own, no less than `ridge`:
    the one with which rows that were left out of the fit come out best. Where they come out best
    without a fit, the sub-layer stays as it is. The result says what was chosen, by the name of the
    sub-layer. Each process of a `team` runs its own batches, and all solve the sums of them.

    Layers that are run again and again are fitted once, to the sum of what all runs of them are to
    compute; each run is given what the teacher gives it.

    With `refits_inputs` what reads a sub-layer's inputs is fitted too, before the projection: the
    hidden states of the student are mapped, linearly, to what its teacher's are there, and the map
    becomes part of the weights. With `leaves_out` it is not.

    Without `teacher` what it gives is taken from where `keeping_totals` has put it; then no inputs
    are refitted.

    Raises `StepFailed`, naming the sub-layer, when its statistics are not finite or singular.
    """
    student.module.eval()
    if teacher is not None:
        teacher.module.eval()
    refits_inputs = refits_inputs and not leaves_out
    work = _Work(student, teacher, calibration, ridge, advance, leaves_out, refits_inputs, team)
    is_repeated = student.parts.repeated is not None
    for index in range(len(student.layer_list)):
        if is_repeated:
            work.fit_all_runs(index, "attention")
            work.fit_all_runs(index, "feed_forward")
        else:
            work.fit_attention(index)
            work.fit_feed_forward(index)
    return work.choices


@dataclass(frozen=True)
class _Work:
    """One reconstruction: hidden states of both models wait in files beside the inputs."""

    student: Encoder
    teacher: Encoder | None
    calibration: CalibrationInputs
    ridge: float
    advance: Callable[[], object]
    leaves_out: bool
    refits_inputs: bool
    team: Team
    choices: dict[str, RidgeChoice] = field(default_factory=dict)

    @property
    def _running_teacher(self) -> Encoder:
        assert self.teacher is not None, "what it gave is not kept for every use"
        return self.teacher

    def fit_attention(self, index: int) -> None:
        """Run the teacher's layer where it has to be, and fit the student's attention to it."""
        if self.refits_inputs and index > 0:
            self._refit_attention(index)
        files = self.calibration.files
        fit = self._correction(index, self.student.parts.attention.output)
        for batch in self._batches():
            if self.teacher is not None:
                self._run_teacher(self.teacher, index, batch)
            target = files.get(_totals_of(index), batch)["attention"]
            trace = self._run(self.student, "student", index, batch, attention_only=True)
            files.put("student", batch, {"hidden": trace.attention.residual})
            files.put("attention", batch, {"units": trace.attention.inputs})
            self._add(fit, trace.attention, target, batch)
            self.advance()
        self._solve(fit, f"the attention of layer {index}")

    def _run_teacher(self, teacher: Encoder, index: int, batch: int) -> None:
        """Keep what the sub-layers of a layer of the teacher's add up to, and what it gives."""
        teaching = teacher.layers[index].feed_forward if self.refits_inputs else None
        with _inputs_of(None if teaching is None else teaching.ffn_in) as read:
            target = self._run(teacher, "teacher", index, batch)
        assert target.feed_forward is not None
        assert target.output is not None
        files = self.calibration.files
        files.put("teacher", batch, {"hidden": target.output})
        totals = {"attention": target.attention.total, "total": target.feed_forward.total}
        reads = {"reads": torch.cat(read, dim=1)} if read else {}
        files.put(_totals_of(index), batch, {**totals, **reads})

    def fit_feed_forward(self, index: int) -> None:
        """Fit the student's feed-forward network, and move its hidden states past the layer."""
        if self.refits_inputs:
            self._refit_feed_forward(index)
        files = self.calibration.files
        fit = self._correction(index, self.student.parts.feed_forward.ffn_out)
        layer = self.student.layers[index]
        for batch in self._batches():
            with known_inputs(layer.attention, files.get("attention", batch)["units"]):
                trace = self._run(self.student, "student", index, batch, is_stored=True)
            assert trace.feed_forward is not None
            files.put("neurons", batch, {"units": trace.feed_forward.inputs})
            total = files.get(_totals_of(index), batch)["total"]
            self._add(fit, trace.feed_forward, total, batch)
            self.advance()
        self._solve(fit, f"the feed-forward network of layer {index}")
        for batch in self._batches():
            with (
                known_inputs(layer.attention, files.get("attention", batch)["units"]),
                known_inputs(layer.feed_forward, files.get("neurons", batch)["units"]),
            ):
                output = self._run(self.student, "student", index, batch, is_stored=True).output
            assert output is not None
            files.put("student", batch, {"hidden": output})
            files.drop(_totals_of(index), batch)

    def fit_all_runs(self, index: int, part: Literal["attention", "feed_forward"]) -> None:
        """Fit a sub-layer of a layer that is run several times, to all runs of the teacher's."""
        is_first = part == "attention"
        parts = self.student.parts
        fit = self._correction(
            index, parts.attention.output if is_first else parts.feed_forward.ffn_out
        )
        for batch in self._batches():
            inputs = self.calibration[batch]
            for hidden, target in self._runs_of_teacher(index, inputs):
                trace = run_layer(self.student, index, inputs, hidden, attention_only=is_first)
                own, its = getattr(trace, part), getattr(target, part)
                self._add(fit, own, its.total, batch)
            self.advance()
        name = "attention" if is_first else "feed-forward network"
        self._solve(fit, f"the {name} of layer {index}, which is run several times")

    def _runs_of_teacher(
        self, index: int, inputs: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, LayerTrace]]:
        """Yield what each run of a layer of the teacher's is given, and what happens in it."""
        hidden = None
        for _ in range(self._running_teacher.depth):
            for place in range(len(self._running_teacher.layer_list)):
                trace = run_layer(self._running_teacher, place, inputs, hidden)
                if place == index:
                    yield trace.attention.residual, trace
                hidden = trace.output

    def _refit_attention(self, index: int) -> None:
        """Fit queries, keys and values of the student to hidden states like the teacher's."""
        own, other = (
            each.layers[index].attention for each in (self.student, self._running_teacher)
        )
        if own is None or other is None or not (linears := _readers(own)):
            return
        fit = InputCorrection(linears)
        for batch in self._batches():
            with (
                _inputs_of(own.value) as read,
                _inputs_of(other.value) as wanted,
                not_computed(own),
                not_computed(other),
            ):
                self._run(self.student, "student", index, batch, attention_only=True)
                self._run(self._running_teacher, "teacher", index, batch, attention_only=True)
            self._add_inputs(fit, torch.cat(read, dim=1), torch.cat(wanted, dim=1), batch)
        self._solve(fit, f"what the attention of layer {index} reads")

    def _refit_feed_forward(self, index: int) -> None:
        """Fit what neurons of the student read to hidden states like the teacher's."""
        layer, other = self.student.layers[index], self._running_teacher.layers[index].feed_forward
        own = layer.feed_forward
        if own is None or other is None:
            return
        files = self.calibration.files
        fit = InputCorrection(
            [rows.owner for rows in own.rows if isinstance(rows.owner, nn.Linear)]
        )
        for batch in self._batches():
            units = files.get("attention", batch)["units"]
            with (
                _inputs_of(own.ffn_in) as read,
                known_inputs(layer.attention, units),
                not_computed(own),
            ):
                self._run(self.student, "student", index, batch, is_stored=True)
            wanted = files.get(_totals_of(index), batch)["reads"]
            self._add_inputs(fit, torch.cat(read, dim=1), wanted, batch)
        self._solve(fit, f"what the feed-forward network of layer {index} reads")

    def _add_inputs(self, fit: InputCorrection, read: Tensor, wanted: Tensor, batch: int) -> None:
        mask = token_mask(self.calibration[batch], *read.shape[:2]).to(read.device)
        fit.add(read[mask], wanted[mask])

    def _batches(self) -> range:
        """Return the numbers of this process's batches."""
        return range(self.team.rank, len(self.calibration), self.team.size)

    def _run(
        self,
        encoder: Encoder,
        name: str,
        index: int,
        batch: int,
        *,
        is_stored: bool = False,
        attention_only: bool = False,
    ) -> LayerTrace:
        is_stored = is_stored or index > 0
        hidden = self.calibration.files.get(name, batch)["hidden"] if is_stored else None
        return run_layer(
            encoder, index, self.calibration[batch], hidden, attention_only=attention_only
        )

    def _correction(self, index: int, path: str) -> Correction:
        found = self.student.layer_list[index].get_submodule(path)
        assert isinstance(found, nn.Linear | ConstantOutput)
        return Correction(found, leaves_out=self.leaves_out)

    def _add(self, fit: Correction, trace: SubLayerTrace, total: Tensor, batch: int) -> None:
        """Count in what is missing to `total`, the teacher's residual plus scaled output."""
        inputs = self.calibration[batch]
        mask = token_mask(inputs, *trace.output.shape[:2]).to(total.device)
        missing = ((total - trace.total) / trace.scale)[mask]
        fit.add(trace.inputs[mask], missing, self.calibration.rows_of(batch, mask))

    def _solve(self, fit: Correction | InputCorrection, place: str) -> None:
        try:
            fit.add_up(self.team)
            choice = fit.solve(self.ridge) if isinstance(fit, Correction) else fit.solve()
        except StepFailed as error:
            raise StepFailed(f"least squares of {place}: {error}") from error
        if choice is not None:
            self.choices[place] = choice


def _readers(attention: Attention) -> list[nn.Linear]:
    """Return the linear layers that read hidden states, and nothing else.

    Where positions are relative, those of queries and keys may read these too.
    """
    if attention.relative is None:
        return list(dict.fromkeys((attention.query, attention.key, attention.value)))
    return [] if attention.is_packed else [attention.value]


@contextmanager
def _inputs_of(linear: nn.Linear | None) -> Iterator[list[Tensor]]:
    """Collect what a linear layer reads in a block; several tensors where tokens come in chunks."""
    seen: list[Tensor] = []
    if linear is None:
        yield seen
        return

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = linear.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
