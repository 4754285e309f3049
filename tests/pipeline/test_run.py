"""A run from recipe to report on tiny models, and what is left behind when it stops."""

from __future__ import annotations

import copy
import csv
import dataclasses
import errno
import getpass
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from conftest import BAD, GOOD, NEUTRAL
from tokenizers import Tokenizer

import compressor
from compressor.artifact import load_artifact
from compressor.data import Dataset
from compressor.errors import (
    BudgetExceeded,
    EnvironmentMismatch,
    NotCertified,
    PassError,
    RecipeError,
    StepFailed,
)
from compressor.measurements import RunReport
from compressor.models.runtime_versions import oldest_runtime
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PASSES, PassContext, PassEntry, TorchPass
from compressor.pipeline.wanted_splits import read_splits
from compressor.tasks import load_task
from compressor.verify.evaluation import predict_outputs


def write_split(path: Path, dataset: Dataset) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        assert dataset.labels is not None
        writer.writerows(zip(dataset.examples, dataset.labels, strict=True))
    return path


@pytest.fixture(scope="session")
def self_labelled(tiny_bert_dir: Path, text_dataset: Dataset) -> Dataset:
    """Return texts labelled with the tiny BERT's own predictions, so that its accuracy is 1."""
    model = compressor.load_checkpoint(tiny_bert_dir)
    logits = predict_outputs(model, model.task, model.preprocessor, text_dataset).numbers
    return dataclasses.replace(text_dataset, labels=logits.argmax(axis=1))


@pytest.fixture(scope="session")
def base(tiny_bert_dir: Path, self_labelled: Dataset, tmp_path_factory: Any) -> dict[str, Any]:
    """Return a recipe without passes over the tiny BERT; tests change a copy."""
    data = write_split(tmp_path_factory.mktemp("data") / "rows.csv", self_labelled)
    return {
        "model": {"checkpoint": str(tiny_bert_dir)},
        "data": {
            "text": "text",
            "label": "label",
            "train": {"path": str(data)},
            "search": {"path": str(data)},
        },
        "budget": {"max_drop": 0.9},
        "passes": [],
        "benchmark": {
            "batch_sizes": [1, 2],
            "sequence_lengths": [8],
            "num_runs": 3,
            "warmup_runs": 1,
            "threads": 1,
        },
    }


def other_texts(model: TorchModel) -> Dataset:
    """Return some 300 texts that are no others' copies, labelled with a model's predictions."""
    random = np.random.default_rng(1)
    words = (*GOOD, *BAD, *NEUTRAL)
    drawn = [" ".join(random.choice(words, size)) for size in range(2, 12) for _ in range(32)]
    texts = tuple(dict.fromkeys(drawn))
    rows = Dataset("train", texts, None, np.arange(len(texts)), "generated")
    logits = predict_outputs(model, model.task, model.preprocessor, rows).numbers
    return dataclasses.replace(rows, labels=logits.argmax(axis=1))


def some(rows: Dataset, positions: Any) -> Dataset:
    assert rows.labels is not None
    examples = tuple(rows.examples[place] for place in positions)
    return dataclasses.replace(rows, examples=examples, labels=rows.labels[positions])


@pytest.fixture(scope="session")
def unseen(tiny_bert_dir: Path) -> Dataset:
    """Return 48 texts beside those of `self_labelled`, labelled in the same way."""
    return some(other_texts(compressor.load_checkpoint(tiny_bert_dir)), np.arange(48))


@pytest.fixture(scope="module")
def balanced(base: dict[str, Any], text_dataset: Dataset, tmp_path_factory: Any) -> dict[str, Any]:
    """Return a recipe over a tiny BERT that gives each label to half of the texts.

    That of `base` says positive to 47 of 48, and so would a model that reads nothing.
    """
    folder = tmp_path_factory.mktemp("balanced")
    model = compressor.load_checkpoint(base["model"]["checkpoint"])
    logits = predict_outputs(model, model.task, model.preprocessor, text_dataset).numbers
    with torch.no_grad():
        model.module.classifier.bias[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    model.save(folder / "checkpoint")
    logits = predict_outputs(model, model.task, model.preprocessor, text_dataset).numbers
    predictions = logits.argmax(axis=1)
    assert np.bincount(predictions).tolist() == [24, 24]
    self_labelled = dataclasses.replace(text_dataset, labels=predictions)
    others = other_texts(model)
    halves = [np.flatnonzero(others.class_ids == own)[:24] for own in (0, 1)]
    unseen = some(others, np.concatenate(halves))
    sources = {
        name: {"path": str(write_split(folder / f"{name}.csv", rows))}
        for name, rows in (("search", self_labelled), ("certification", unseen))
    }
    model_settings = {"checkpoint": str(folder / "checkpoint")}
    data = {"text": "text", "label": "label", **sources}
    return {**base, "model": model_settings, "data": data, "budget": {"max_drop": 0.1}}


@pytest.fixture(scope="module")
def certified(balanced: dict[str, Any], tmp_path_factory: Any) -> tuple[RunReport, Path]:
    output = tmp_path_factory.mktemp("certified") / "run"
    return run(balanced, output, benchmark={"providers": []}), output


def run(base: dict[str, Any], output: Path, **changes: Any) -> RunReport:
    recipe = output.with_suffix(".json.yaml")
    recipe.write_text(json.dumps({**base, **changes}))
    return compressor.run(compressor.load_recipe(recipe), output=output, device="cpu")


def test_no_file_that_ships_names_a_folder_of_the_machine(certified: tuple[RunReport, Path]):
    report, output = certified
    folders = {Path(report.source_checkpoint).parent, output.parent, Path.home(), Path.cwd()}
    who = re.compile(rf"\b({re.escape(getpass.getuser())}|{re.escape(socket.gethostname())})\b")
    for path in filter(Path.is_file, (output / "artifact").rglob("*")):
        content = path.read_bytes()
        assert not [folder for folder in folders if os.fsencode(folder) in content], path.name
        if path.suffix != ".onnx":  # bytes of weights may spell a short name
            assert who.search(content.decode()) is None, path.name
    recipe = json.loads((output / "artifact" / "manifest.json").read_text())["recipe"]
    assert recipe["model"]["checkpoint"] == "checkpoint"
    assert recipe["data"]["search"]["path"] == "search.csv"


def test_the_report_shows_predictions_of_the_artifact_on_search_rows(
    finished: tuple[RunReport, Path], self_labelled: Dataset
):
    report, output = finished
    texts = [str(self_labelled.examples[item.row]) for item in report.predictions]
    found = load_artifact(output / "artifact")(texts)
    assert [item.text for item in report.predictions] == texts
    assert [item.after for item in report.predictions] == [one["label"] for one in found]
    assert [item.after_score for item in report.predictions] == pytest.approx(
        [one["score"] for one in found], abs=1e-4
    )
    assert {item.before for item in report.predictions} == {"negative", "positive"}


def file_contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(base: dict[str, Any], tmp_path_factory: Any) -> tuple[RunReport, Path]:
    output = tmp_path_factory.mktemp("finished") / "run"
    steps = [
        {
            "kind": "prune_structured",
            "ratio": 0.5,
            "importance": "magnitude",
            "recovery": {"kind": "distill", "max_steps": 2},
        },
        {"kind": "quantize_dynamic", "min_elements": 64},
    ]
    return run(base, output, passes=steps), output


@pytest.fixture
def begun(finished: tuple[RunReport, Path], tmp_path: Path) -> Path:
    """Return a directory with the steps of the finished run, for runs of other recipes.

    They take up what they share with it, most of all the export of the untouched checkpoint.
    """
    output = tmp_path / "run"
    shutil.copytree(finished[1] / "steps", output / "steps")
    (output / ".lock").touch()
    return output


def test_a_checkpoint_that_keeps_its_shape_opens_in_transformers_pipeline(
    base: dict[str, Any], begun: Path, self_labelled: Dataset
):
    steps = [{"kind": "distill", "max_steps": 2}]
    run(base, begun, passes=steps, benchmark={"providers": []})
    texts = [str(text) for text in self_labelled.examples[:5]]
    pipe: Any = transformers.pipeline("text-classification", model=str(begun / "checkpoint"))
    wanted = load_artifact(begun / "artifact")(texts)
    found = pipe(texts)
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    scores = [one["score"] for one in wanted]
    assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-4)


def test_the_report_on_disk_is_the_one_returned(finished: tuple[RunReport, Path]):
    report, output = finished
    assert json.loads((output / "report.json").read_text()) == json.loads(
        json.dumps(report.to_dict())
    )


def test_parameters_are_counted_alike_in_pytorch_and_in_every_graph(
    finished: tuple[RunReport, Path], tiny_bert_dir: Path
):
    # Fresh biases are all 0, and an export stores those of one length once.
    report, output = finished
    assert report.baseline is not None
    assert report.final is not None
    before, after = load_checkpoint(tiny_bert_dir), load_checkpoint(output / "checkpoint")
    assert report.baseline.size.parameters == before.parameter_counts()[0]
    assert report.baseline.size.nonzero_parameters == before.parameter_counts()[1]
    counts = [step.size.parameters for step in report.passes if step.size is not None]
    assert [*counts, report.final.size.parameters] == [after.parameter_counts()[0]] * 3


def test_the_report_knows_the_size_of_the_file_that_was_given(
    finished: tuple[RunReport, Path], tiny_bert_dir: Path
):
    given = (tiny_bert_dir / "model.safetensors").stat().st_size
    assert finished[0].source_bytes == given


def test_the_report_has_what_scripts_rely_on(finished: tuple[RunReport, Path]):
    report, _ = finished
    data = report.to_dict()
    assert data["verdict"] == "passed"
    assert data["schema_version"] == 1
    for end in ("baseline", "final"):
        assert data[end]["score"]["metric"] == "accuracy"
        assert data[end]["score"]["num_examples"] == 48
        assert data[end]["size"]["bytes_on_disk"] > 0
        assert 0 < data[end]["size"]["nonzero_parameters"] <= data[end]["size"]["parameters"]
        assert 3 <= data[end]["flops"]["sequence_length"] <= 14
    assert 0 < data["final"]["flops"]["encoder"] < 0.7 * data["baseline"]["flops"]["encoder"]
    assert [step["kind"] for step in data["passes"]] == ["prune_structured", "quantize_dynamic"]
    assert data["passes"][0]["score_before"] == data["baseline"]["score"]["value"]
    assert data["passes"][1]["score_before"] == data["passes"][0]["score_after"]
    assert {step["verdict"] for step in data["passes"]} == {"passed"}
    assert 0 <= data["parity"]["max_abs_diff"] <= 1e-3
    measured = {
        (row["model"], row["batch_size"], row["sequence_length"]) for row in data["latencies"]
    }
    assert measured == {(end, size, 8) for end in ("baseline", "final") for size in (1, 2)}
    assert {row["provider"] for row in data["latencies"]} == {"cpu"}


def test_a_pass_that_passes_at_once_has_one_try(finished: tuple[RunReport, Path]):
    step = finished[0].to_dict()["passes"][0]
    [attempt] = step["tries"]
    shared = ("settings", "score_after", "drop", "size", "verdict", "seconds")
    assert {key: attempt[key] for key in shared} == {key: step[key] for key in shared}
    assert (attempt["change"], attempt["kept"]) == ("as the recipe says", True)


@pytest.mark.parametrize(("on_failure", "read"), [("stop", False), ("repair", True)])
def test_a_repair_that_may_measure_weights_has_its_calibration_rows(
    base: dict[str, Any], tmp_path: Path, on_failure: str, read: bool
):
    passes = [{"kind": "quantize_dynamic", "on_failure": on_failure}]
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**base, "passes": passes}))
    splits = read_splits(
        compressor.load_recipe(path),
        label_names=("negative", "positive"),
        task=load_task("text-classification"),
        metric="accuracy",
    )
    assert ("calibration" in splits) == read


def test_the_final_score_is_that_of_the_file_that_ships(
    finished: tuple[RunReport, Path], self_labelled: Dataset
):
    report, output = finished
    session = onnxruntime.InferenceSession(
        str(output / "artifact" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    artifact = load_artifact(output / "artifact")
    predictions = []
    order = sorted(range(48), key=lambda index: len(self_labelled.examples[index]))
    for start in range(0, 48, 32):
        texts = [self_labelled.examples[index] for index in order[start : start + 32]]
        feed = artifact.preprocessor(texts, padding=True, return_tensors="np")
        names = [item.name for item in session.get_inputs()]
        logits = session.run(["logits"], {name: feed[name].astype(np.int64) for name in names})[0]
        predictions += logits.argmax(axis=1).tolist()
    assert self_labelled.labels is not None
    right = np.mean(np.array(predictions) == self_labelled.labels[order])
    assert report.final is not None
    assert report.final.score.value == right


def test_the_artifact_is_smaller_and_loads(finished: tuple[RunReport, Path]):
    report, output = finished
    assert report.baseline is not None
    assert report.final is not None
    assert report.final.size.bytes_on_disk < report.baseline.size.bytes_on_disk
    predictions = compressor.load_artifact(output / "artifact")(["a good film", "bad"])
    assert [set(prediction) for prediction in predictions] == [{"label", "label_id", "score"}] * 2
    assert {prediction["label"] for prediction in predictions} <= {"negative", "positive"}


def test_the_last_pytorch_model_loads_again(finished: tuple[RunReport, Path]):
    report, output = finished
    model = compressor.load_checkpoint(output / "checkpoint")
    size = report.passes[0].size
    assert size is not None
    assert model.parameter_counts()[0] == size.parameters


@pytest.mark.usefixtures("traces_anew")
def test_the_recipe_of_the_report_makes_the_same_artifact_byte_for_byte(
    finished: tuple[RunReport, Path], tmp_path: Path
):
    recipe = json.loads((finished[1] / "report.json").read_text())["recipe"]
    again = run(recipe, tmp_path / "run")
    assert again.verdict == "passed"
    assert not any(step.reused for step in again.steps)
    assert file_contents(tmp_path / "run" / "artifact") == file_contents(finished[1] / "artifact")


def test_a_changed_artifact_is_refused(finished: tuple[RunReport, Path], tmp_path: Path):
    copy = shutil.copytree(finished[1] / "artifact", tmp_path / "artifact")
    with (copy / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx missing or changed"):
        compressor.load_artifact(copy)


def test_scratch_space_is_gone_after_a_run(finished: tuple[RunReport, Path]):
    assert not (finished[1] / "work").exists()


def test_a_run_without_passes_is_a_plain_export(base: dict[str, Any], begun: Path):
    report = run(base, begun, benchmark={"providers": []})
    assert report.verdict == "passed"
    assert report.passes == ()
    assert report.latencies == ()
    assert "empty" in report.missing["latencies"]
    assert report.rows_to_certify is None  # this budget lets a model pass that knows nothing
    assert report.baseline is not None
    assert report.final is not None
    assert report.final.score.value == report.baseline.score.value


def test_a_model_for_a_gpu_that_is_not_here_can_be_judged_on_the_cpu(
    base: dict[str, Any], begun: Path
):
    report = run(
        base,
        begun,
        passes=[{"kind": "quantize_tensorrt", "min_elements": 64}, {"kind": "convert_fp16"}],
        export={"provider": "tensorrt", "evaluate_on": "cpu"},
        benchmark={"providers": []},
    )
    assert report.verdict == "passed"
    assert [step.verdict for step in report.passes] == ["passed", "passed"]
    assert "Judged on the provider cpu, not on TensorRT." in report.passes[0].notes
    manifest = json.loads((begun / "artifact" / "manifest.json").read_text())
    assert manifest["provider"] == "tensorrt"
    assert manifest["min_onnxruntime"] == oldest_runtime(begun / "artifact" / "model.onnx")
    artifact = load_artifact(begun / "artifact")
    assert artifact.model.settings.as_written
    assert artifact.logits(["a good film"]).shape == (1, 2)
    for place in ("report.md", "report.html", "artifact/README.md"):
        text = (begun / place).read_text()
        assert "judged on the provider cpu, not on tensorrt" in text.lower()


def test_a_provider_that_is_not_here_is_refused_with_what_can_be_done_without_it(
    base: dict[str, Any], tmp_path: Path
):
    export = {"provider": "tensorrt"}
    with pytest.raises(EnvironmentMismatch, match=r"tensorrt.*export\.evaluate_on: cpu"):
        run(base, tmp_path / "run", export=export, benchmark={"providers": []})
    assert not (tmp_path / "run").exists()


def test_the_certification_split_is_read_for_both_ends(certified: tuple[RunReport, Path]):
    report, _ = certified
    assert report.certification is not None
    assert report.certification.drop == 0.0
    assert report.certificate is not None
    # Without a flip the exact bound is near 3 / n: 48 examples prove at most 7 points.
    assert (report.certificate.wins, report.certificate.losses) == (0, 0)
    assert 2.7 / 48 < report.certificate.upper_bound < 3.5 / 48
    assert report.certificate.verdict == "certified"
    assert report.certificate.uninformed is not None
    # Whoever knows nothing has half of them wrong, and surely more than a third.
    assert report.certificate.uninformed.score == 0.5
    assert 1 / 3 < (report.certificate.uninformed.least_drop or 0.0) < 0.5
    assert (report.chance and report.chance.score, report.doubts) == (0.5, ())
    assert not report.inconclusive_allowed
    assert [split.name for split in report.splits] == ["search", "certification"]


@pytest.fixture
def begun_balanced(certified: tuple[RunReport, Path], tmp_path: Path) -> Path:
    """Return a directory with the steps of the certified run."""
    output = tmp_path / "run"
    shutil.copytree(certified[1] / "steps", output / "steps")
    (output / ".lock").touch()
    return output


def test_a_mistake_in_a_recipe_costs_nothing_of_what_an_earlier_run_gave(
    base: dict[str, Any], finished: tuple[RunReport, Path], tmp_path: Path
):
    output = tmp_path / "run"
    shutil.copytree(finished[1], output)
    before = file_contents(output)
    with pytest.raises(RecipeError, match="no column 'sentense'"):
        run(base, output, data={**base["data"], "text": "sentense"})
    assert file_contents(output) == before


def test_rows_that_prove_too_little_end_the_run_before_the_artifact_is_complete(
    balanced: dict[str, Any], begun_balanced: Path
):
    begun = begun_balanced
    with pytest.raises(NotCertified) as caught:
        run(balanced, begun, budget={"max_drop": 0.03})
    # Not one of 48 predictions changed, but 0.05^(1/48) bounds the drop at 6 points, not at 3.
    assert (caught.value.exit_code, caught.value.drop, caught.value.max_drop) == (6, 0.0, 0.03)
    assert caught.value.upper_bound is not None
    assert 2.7 / 48 < caught.value.upper_bound < 3.5 / 48
    assert caught.value.needed_examples is not None
    assert caught.value.needed_examples > 48
    report = json.loads((begun / "report.json").read_text())
    assert report["verdict"] == "not_certified"
    assert report["certificate"]["verdict"] == "inconclusive"
    assert report["latencies"] != []
    with pytest.raises(EnvironmentMismatch, match="artifact"):
        compressor.load_artifact(begun / "artifact")


def test_a_budget_that_a_model_that_knows_nothing_would_meet_is_never_certified(
    balanced: dict[str, Any], begun_balanced: Path
):
    with pytest.raises(NotCertified) as caught:
        run(balanced, begun_balanced, budget={"max_drop": 0.6}, benchmark={"providers": []})
    told = str(caught.value)
    assert "and that would pass too; lower budget.max_drop" in told
    assert "raise budget.max_drop" not in told
    report = json.loads((begun_balanced / "report.json").read_text())
    assert (report["verdict"], report["certificate"]["verdict"]) == (
        "not_certified",
        "inconclusive",
    )
    assert report["certificate"]["upper_bound"] < 0.6
    assert report["certificate"]["needed_examples"] is None
    [doubt] = report["doubts"]
    assert "The budget lets a model pass that knows nothing" in doubt
    assert doubt.partition(":")[0] in (begun_balanced / "report.html").read_text()


def test_a_checkpoint_that_predicts_everything_alike_is_not_scored(
    base: dict[str, Any], begun: Path, tmp_path: Path
):
    (tmp_path / "rows.csv").write_text("text\ngood film\ngreat film\nlovely plot\n")
    data = {"text": "text", "search": {"path": str(tmp_path / "rows.csv")}}
    with pytest.raises(RecipeError, match="predicts 'positive' for all 3 examples"):
        run(base, begun, data=data, budget={"metric": "agreement", "max_drop": 0.9})
    assert json.loads((begun / "report.json").read_text())["passes"] == []


def test_labels_of_one_class_are_refused_before_anything_is_scored(
    base: dict[str, Any], tmp_path: Path
):
    (tmp_path / "rows.csv").write_text("text,label\ngood film,1\nbad film,1\n")
    data = {"text": "text", "search": {"path": str(tmp_path / "rows.csv")}}
    with pytest.raises(RecipeError, match=r"data\.search: every label is class 1"):
        run(base, tmp_path / "run", data=data)


def test_ids_in_another_order_than_the_checkpoints_are_refused_with_the_line_to_write(
    balanced: dict[str, Any], begun_balanced: Path, tmp_path: Path
):
    with Path(balanced["data"]["search"]["path"]).open(encoding="utf-8", newline="") as stream:
        rows = [f"{row['text']},{1 - int(row['label'])}" for row in csv.DictReader(stream)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    data = {"text": "text", "search": {"path": str(tmp_path / "rows.csv")}}
    with pytest.raises(RecipeError) as caught:
        run(balanced, begun_balanced, data=data)
    [mistake] = caught.value.mistakes
    assert "predicts 100.00% of the search split as labelled, as they stand 0.00%" in mistake
    assert "(if 0 means 'positive', 1 means 'negative')" in mistake
    assert 'label_names: ["1", "0"], or ["0", "1"] if they are right' in mistake
    right = run(balanced, begun_balanced, data={**data, "label_names": ["1", "0"]})
    assert right.baseline is not None
    assert (right.baseline.score.value, right.doubts) == (1.0, ())


def test_certification_rows_in_another_order_end_the_run_and_count_as_read(
    balanced: dict[str, Any], begun_balanced: Path, tmp_path: Path
):
    with Path(balanced["data"]["certification"]["path"]).open(
        encoding="utf-8", newline=""
    ) as stream:
        rows = [f"{row['text']},{1 - int(row['label'])}" for row in csv.DictReader(stream)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    data = {**balanced["data"], "certification": {"path": str(tmp_path / "rows.csv")}}
    with pytest.raises(RecipeError, match="of the certification split as labelled"):
        run(balanced, begun_balanced, data=data)
    [*_, reading] = json.loads((begun_balanced / "report.json").read_text())["certificate_readings"]
    assert (reading["num_examples"], reading["baseline"], reading["is_this_run"]) == (48, 0.0, True)


def test_missing_proof_can_be_accepted_and_the_report_says_so(
    base: dict[str, Any], unseen: Dataset, begun: Path, tmp_path: Path
):
    rows = write_split(tmp_path / "unseen.csv", unseen)
    recipe = tmp_path / "recipe.yaml"
    data = {**base["data"], "certification": {"path": str(rows)}}
    settings = {**base, "data": data, "budget": {"max_drop": 0.03}, "benchmark": {"providers": []}}
    recipe.write_text(json.dumps(settings))
    loaded = compressor.load_recipe(recipe)
    report = compressor.run(loaded, output=begun, device="cpu", allow_inconclusive=True)
    assert (report.verdict, report.inconclusive_allowed) == ("passed", True)
    compressor.load_artifact(begun / "artifact")
    assert "Passed without proof" in (begun / "report.html").read_text()


class Harm(TorchPass):
    """A pass that does what a test asks."""

    about = PASSES["finetune"].settings.about
    kind: str = "finetune"
    harm: str = "raise"

    def apply(self, model: TorchModel, context: PassContext) -> TorchModel:
        """Break the model, or fail."""
        if self.harm == "raise":
            raise ZeroDivisionError("nothing to divide")
        with torch.no_grad():
            value = float("nan") if self.harm == "nan" else 0.0
            model.module.classifier.weight.fill_(value)
            model.module.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
        context.note("harm done")
        return model


def apply(settings: Harm | Renumber, model: TorchModel, context: PassContext) -> TorchModel:
    """Do the work of either pass of this file."""
    return settings.apply(model, context)


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "finetune", PassEntry(Harm, __name__))


@pytest.mark.usefixtures("harmful")
def test_a_failed_gate_names_the_guilty_pass(
    base: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Harm, "apply", lambda self, model, context: _invert(model))
    with pytest.raises(BudgetExceeded) as caught:
        run(base, begun, passes=[{"kind": "finetune"}], budget={"max_drop": 0.0})
    assert caught.value.step == "passes[0] (finetune)"
    report = json.loads((begun / "report.json").read_text())
    assert report["verdict"] == "budget_exceeded"
    assert report["guilty_step"] == "passes[0] (finetune)"
    assert report["passes"][0]["verdict"] == "budget_exceeded"
    assert report["passes"][0]["drop"] == 1.0
    assert report["final"] is None
    assert "final" in report["missing"]
    assert not (begun / "artifact").exists()
    assert caught.value.report.verdict == "budget_exceeded"


def _invert(model: TorchModel) -> TorchModel:
    """Swap the two predictions, so that an accuracy of 1 becomes 0."""
    with torch.no_grad():
        for parameter in (model.module.classifier.weight, model.module.classifier.bias):
            parameter.copy_(parameter.flip(0))
    return model


@pytest.mark.usefixtures("harmful")
def test_what_a_pass_refuses_on_purpose_is_a_pass_error_with_its_cause(
    base: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: Any) -> None:
        raise StepFailed("there are no labels; give some")

    monkeypatch.setattr(Harm, "apply", refuse)
    with pytest.raises(PassError, match="there are no labels; give some") as caught:
        run(base, begun, passes=[{"kind": "finetune"}])
    assert (caught.value.kind, caught.value.position) == ("finetune", 0)
    assert isinstance(caught.value.__cause__, StepFailed)
    report = json.loads((begun / "report.json").read_text())
    assert (report["verdict"], report["guilty_step"]) == ("failed", "passes[0] (finetune)")
    assert report["passes"][0]["score_after"] is None


@pytest.mark.parametrize("error", [ZeroDivisionError("by 0"), ValueError("by 0")])
@pytest.mark.usefixtures("harmful")
def test_a_bug_in_a_pass_comes_through_with_a_report_that_says_so(
    base: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def stumble(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(Harm, "apply", stumble)
    with pytest.raises(type(error)) as caught:
        run(base, begun, passes=[{"kind": "finetune"}])
    report = json.loads((begun / "report.json").read_text())
    assert (report["verdict"], report["guilty_step"]) == ("internal_error", "passes[0] (finetune)")
    assert report["passes"][0]["verdict"] == "internal_error"
    assert report["reason"] == (
        f"internal error in passes[0] (finetune): {type(error).__name__}: by 0; this is a bug in "
        f"compressor and not a mistake in the recipe, the checkpoint or the data; please report it "
        f"with the traceback in {begun / 'traceback.txt'}"
    )
    assert caught.value.__notes__ == [report["reason"]]
    assert "in stumble" in (begun / "traceback.txt").read_text()


@pytest.mark.usefixtures("harmful")
def test_the_traceback_of_a_bug_goes_when_the_directory_is_run_again(
    base: dict[str, Any], begun: Path
):
    with pytest.raises(ZeroDivisionError):
        run(base, begun, passes=[{"kind": "finetune"}])
    with pytest.raises(PassError):
        run(base, begun, passes=[{"kind": "finetune", "harm": "nan"}])
    assert not (begun / "traceback.txt").exists()


@pytest.mark.usefixtures("harmful")
def test_a_pass_that_ctrl_c_interrupts_did_not_fail(
    base: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Harm, "apply", stop)
    with pytest.raises(KeyboardInterrupt):
        run(base, begun, passes=[{"kind": "finetune"}])
    [record] = json.loads((begun / "report.json").read_text())["passes"]
    assert (record["verdict"], record["tries"][0]["verdict"]) == ("stopped", "stopped")


@pytest.mark.usefixtures("harmful")
def test_logits_that_are_not_finite_fail_the_pass(base: dict[str, Any], begun: Path):
    with pytest.raises(PassError, match="not finite"):
        run(base, begun, passes=[{"kind": "finetune", "harm": "nan"}])


def test_a_full_disk_is_an_environment_mismatch_with_a_report(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    monkeypatch.setattr("compressor.pipeline.cached_work.export_onnx", lambda *_, **__: fail())
    with pytest.raises(EnvironmentMismatch, match=r"baseline: .*No space left .*free space"):
        run(base, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "report.json").read_text())["verdict"] == "failed"


def test_ctrl_c_leaves_a_report(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.pipeline.cached_work.export_onnx", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(base, tmp_path / "run")
    assert caught.value.__notes__ == [
        "Stopped by you before anything was measured; run the same command again to resume"
    ]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["verdict"], report["guilty_step"]) == ("stopped", "baseline")
    assert report["reason"].startswith("stopped by you (Ctrl-C); run the same command again")


def test_an_input_that_may_not_be_read_is_named_with_its_key(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = Path(base["model"]["checkpoint"]) / "model.safetensors"

    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(weights))

    monkeypatch.setattr("compressor.models.checkpoint.CheckpointFiles.sha256", refuse)
    told = re.escape(f"model.checkpoint: {weights} cannot be read (Permission denied); check that")
    with pytest.raises(EnvironmentMismatch, match=told) as caught:
        run(base, tmp_path / "run")
    assert "free space" not in str(caught.value)


def test_a_disk_too_full_for_the_report_does_not_hide_why_the_run_stopped(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("compressor.pipeline.cached_work.export_onnx", fail)
    monkeypatch.setattr("compressor.report.render.write_whole", fail)
    with pytest.raises(
        EnvironmentMismatch, match=r"baseline: cannot read or write .*No space left"
    ):
        run(base, tmp_path / "run")


def test_an_output_directory_that_is_removed_during_a_run_is_told(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def remove(*arguments: Any, **settings: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("compressor.pipeline.cached_work.export_onnx", remove)
    with pytest.raises(EnvironmentMismatch, match=r"check free space and permissions in .*run"):
        run(base, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "report.json").read_text())["verdict"] == "failed"


def test_a_budget_finer_than_one_example_stops_before_the_model_is_loaded(
    base: dict[str, Any], tmp_path: Path
):
    with pytest.raises(RecipeError, match=r"budget\.max_drop: 0\.01 is finer than one of the 48"):
        run(base, tmp_path / "run", budget={"max_drop": 0.01})


def test_an_unknown_metric_lists_those_of_the_task(base: dict[str, Any], tmp_path: Path):
    with pytest.raises(RecipeError, match=r"budget\.metric: .* has no metric 'bleu' .*accuracy"):
        run(base, tmp_path / "run", budget={"max_drop": 0.1, "metric": "bleu"})


def test_a_missing_provider_stops_before_anything_is_written(base: dict[str, Any], tmp_path: Path):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(EnvironmentMismatch, match="'cuda' is not in this onnxruntime"):
        run(base, tmp_path / "run", benchmark={"providers": ["cpu", "cuda"]})
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint_leaves_a_report(base: dict[str, Any], tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="no such directory"):
        run(base, tmp_path / "run", model={"checkpoint": "./absent"})
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["verdict"], report["guilty_step"], report["baseline"]) == (
        "failed",
        "load",
        None,
    )


def test_labels_that_differ_from_the_checkpoint_are_refused(base: dict[str, Any], tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na good film,happy\nbad,sad\n")
    data = {**base["data"], "train": {"path": str(path)}, "search": {"path": str(path)}}
    with pytest.raises(RecipeError, match=r"yaml:1: data\.search: .*label_names"):
        run(base, tmp_path / "run", data=data)


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ({"kind": "finetune"}, "kind"),
        ({"kind": "distill", "label_weight": 1}, "label_weight"),
        ({"kind": "prune_structured", "ratio": 0.5, "recovery": {"kind": "finetune"}}, "recovery"),
        ({"kind": "prune_magnitude", "sparsity": 0.5, "finetune": {}}, "finetune"),
    ],
)
def test_training_on_labels_that_are_not_there_is_refused_before_any_pass(
    base: dict[str, Any], tmp_path: Path, step: dict[str, Any], key: str
):
    texts = tmp_path / "texts.csv"
    texts.write_text("text\na good film\nbad\n" * 8)
    data = {**base["data"], "train": {"path": str(texts)}}
    passes = [{"kind": "prune_structured", "ratio": 0.5, "importance": "magnitude"}, step]
    with pytest.raises(
        RecipeError, match=rf"passes\[1\]\.{key}.*: trains on labels, and the train"
    ):
        run(base, tmp_path / "run", data=data, passes=passes)


def test_calibration_rows_are_cut_for_the_pass_that_reads_most(
    base: dict[str, Any], self_labelled: Dataset, tmp_path: Path
):
    many = range(3000)
    assert self_labelled.labels is not None
    large = dataclasses.replace(
        self_labelled,
        examples=tuple(self_labelled.examples[row % len(self_labelled)] for row in many),
        labels=np.resize(self_labelled.labels, len(many)),
    )
    data = {**base["data"], "train": {"path": str(write_split(tmp_path / "large.csv", large))}}
    fisher = {"kind": "prune_structured", "ratio": 0.5, "importance": "fisher"}
    steps = [{**fisher, "calibration_rows": 570}, {**fisher, "calibration_rows": 2}]
    steps.append({"kind": "finetune"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**base, "data": data, "passes": steps}))
    task = load_task("text-classification")
    splits = read_splits(
        compressor.load_recipe(recipe),
        task=task,
        label_names=("negative", "positive"),
        metric="accuracy",
    )
    assert len(splits["calibration"]) == 570
    assert len(splits["train"]) == 2430


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"benchmark": {"sequence_lengths": [8, 65]}}, r"benchmark\.sequence_lengths: 65 tokens"),
        ({"data": {"max_length": 65}}, r"data\.max_length: 65 tokens"),
        (
            {
                "budget": {"max_drop": 0.9, "target": {"speedup": 2, "sequence_length": 128}},
                "passes": [{"kind": "prune_structured", "ratio": 0.5}],
            },
            r"budget\.target\.sequence_length: 128 tokens",
        ),
    ],
)
def test_texts_longer_than_the_model_reads_are_refused_before_anything_runs(
    base: dict[str, Any], tmp_path: Path, changes: dict[str, Any], place: str
):
    if "data" in changes:
        changes = {"data": {**base["data"], **changes["data"]}}
    with pytest.raises(
        RecipeError, match=rf"{place} are more than model\.checkpoint reads; set 64"
    ):
        run(base, tmp_path / "run", **changes)
    assert not list((tmp_path / "run" / "steps").iterdir())


def test_lengths_that_the_recipe_does_not_name_are_cut_to_what_the_model_reads(
    base: dict[str, Any], begun: Path
):
    quick = {"batch_sizes": [1], "num_runs": 2, "warmup_runs": 1, "threads": 1}
    report = run(base, begun, benchmark=quick)
    assert {latency.sequence_length for latency in report.latencies} == {32, 64}
    assert report.recipe["benchmark"]["sequence_lengths"] == [32, 64]


LONG = "bad awful dull a the was " + "good great fine lovely brilliant " * 4  # 26 words


def by_transformers(checkpoint: str, text: str, max_length: int) -> np.ndarray:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    encoded = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        logits: np.ndarray = model(**encoded).logits.numpy()
    return logits


@pytest.mark.parametrize(("export", "max_length"), [({}, 64), ({"max_length": 16}, 16)])
def test_the_artifact_reads_more_than_was_measured_unless_it_is_not_to(
    base: dict[str, Any], begun: Path, export: dict[str, Any], max_length: int
):
    data = {**base["data"], "max_length": 6}
    report = run(base, begun, data=data, export=export, benchmark={"providers": []})
    artifact = load_artifact(begun / "artifact")
    expected = by_transformers(base["model"]["checkpoint"], LONG, max_length)
    assert artifact.outputs([LONG]) == pytest.approx(expected, abs=1e-5)
    assert artifact.manifest["max_length"] == max_length
    assert report.lengths is not None
    assert (report.lengths.checkpoint, report.lengths.artifact) == (64, max_length)
    assert (report.lengths.measured, report.lengths.longest) == (6, 6)
    assert report.parity is not None
    assert report.parity.sequence_lengths[-1] == max_length


def test_padding_on_the_left_ships_with_a_model_that_needs_it(base: dict[str, Any], tmp_path: Path):
    checkpoint = tmp_path / "xlnet"
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24, "vocab_size": 40}
    torch.manual_seed(0)
    config = transformers.XLNetConfig(**sizes, pad_token_id=0, initializer_range=0.3)
    transformers.XLNetForSequenceClassification(config).save_pretrained(checkpoint)
    words = transformers.AutoTokenizer.from_pretrained(
        base["model"]["checkpoint"], padding_side="left"
    )
    words.save_pretrained(checkpoint)
    run(
        base,
        tmp_path / "run",
        model={"checkpoint": str(checkpoint)},
        budget={"metric": "agreement", "max_drop": 0.1},
        benchmark={"providers": []},
    )
    found = load_artifact(tmp_path / "run" / "artifact").outputs([LONG, "good"])
    expected = [by_transformers(str(checkpoint), text, 64)[0] for text in (LONG, "good")]
    assert found == pytest.approx(np.stack(expected), abs=1e-4)


def test_a_missing_teacher_is_told_by_its_pass_before_anything_runs(
    base: dict[str, Any], tmp_path: Path
):
    steps = [
        {"kind": "prune_structured", "ratio": 0.5, "importance": "magnitude"},
        {"kind": "distill", "teacher": "./nowhere"},
    ]
    with pytest.raises(
        EnvironmentMismatch, match=r"passes\[1\]\.teacher: .*nowhere: no such directory"
    ):
        run(base, tmp_path / "run", passes=steps)
    assert not list((tmp_path / "run" / "steps").iterdir())


def test_a_disk_that_is_full_in_a_pass_is_no_failure_of_the_pass(
    base: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("compressor.passes.quantize.quantization.save_graph", full)
    steps = [{"kind": "quantize_dynamic", "min_elements": 65}]
    with pytest.raises(EnvironmentMismatch, match="check free space") as caught:
        run(base, begun, passes=steps)
    assert caught.value.exit_code == 3
    assert caught.value.report.verdict == "failed"


def test_the_result_of_a_run_is_no_input_of_the_next_one_into_the_same_directory(
    base: dict[str, Any], begun: Path
):
    (begun / "checkpoint").mkdir()
    before = file_contents(begun)
    model = {"checkpoint": str(begun / "checkpoint")}
    with pytest.raises(RecipeError, match=r"model\.checkpoint: .* lies in"):
        run(base, begun, model=model)
    assert file_contents(begun) == before


def test_an_artifact_that_does_not_load_again_has_no_manifest(
    base: dict[str, Any], begun: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise EnvironmentMismatch("it does not load")

    monkeypatch.setattr("compressor.pipeline.run.load_artifact", broken)
    with pytest.raises(EnvironmentMismatch, match="it does not load"):
        run(base, begun, benchmark={"providers": []})
    assert (begun / "artifact" / "model.onnx").is_file()
    assert not (begun / "artifact" / "manifest.json").exists()


def test_no_output_directory_is_a_recipe_error(base: dict[str, Any], tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(base))
    with pytest.raises(RecipeError, match="no directory was given"):
        compressor.run(compressor.load_recipe(recipe))


def test_the_report_names_the_predictions_that_changed_and_no_text_that_must_stay(
    base: dict[str, Any], self_labelled: Dataset, begun: Path
):
    steps = [{"kind": "prune_structured", "ratio": 0.5, "importance": "magnitude"}]
    quick = {
        "passes": steps,
        "benchmark": {"providers": []},
        "budget": {"max_drop": 0.9, "slices": ["label", "length"]},
    }
    data = run(base, begun, **quick).to_dict()
    assert data["compared_split"] == "search"
    right = round(48 * data["final"]["score"]["value"])
    assert [flip["kind"] for flip in data["flips"]] == ["lost"] * (48 - right)
    for flip in data["flips"]:
        assert flip["text"] == self_labelled.examples[flip["row"]]
        assert flip["before"] == flip["label"] != flip["after"]
    by_label = [item for item in data["slices"] if item["name"].startswith("label = ")]
    assert sum(item["num_examples"] for item in by_label) == 48
    assert sum(item["losses"] for item in by_label) == len(data["flips"])
    assert sum(item["num_examples"] for item in data["slices"]) == 2 * 48
    bare = run(base, begun, **quick, report={"examples": False}).to_dict()
    assert {flip["text"] for flip in bare["flips"]} == {None}
    assert [flip["row"] for flip in bare["flips"]] == [flip["row"] for flip in data["flips"]]


class Renumber(TorchPass):
    """A pass that gives the tokens other ids and moves the rows of the table with them."""

    about = PASSES["finetune"].settings.about
    kind: str = "finetune"

    def apply(self, model: TorchModel, context: PassContext) -> TorchModel:
        """Exchange the ids of two words, so that either tokenizer is wrong for the other model."""
        state = json.loads(model.preprocessor.backend_tokenizer.to_str())
        vocabulary = state["model"]["vocab"]
        good, bad = vocabulary["good"], vocabulary["bad"]
        vocabulary["good"], vocabulary["bad"] = bad, good
        tokenizer = copy.deepcopy(model.preprocessor)
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
        table = model.module.get_input_embeddings().weight.data
        table[[good, bad]] = table[[bad, good]]
        return TorchModel(model.module, tokenizer, model.task)


def test_each_model_of_a_run_reads_texts_in_its_own_way(
    base: dict[str, Any],
    unseen: Dataset,
    tiny_bert_dir: Path,
    begun: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(PASSES, "finetune", PassEntry(Renumber, __name__))
    others = write_split(tmp_path / "others.csv", unseen)
    data = {**base["data"], "certification": {"path": str(others)}}
    report = compressor.run(
        compressor.load_recipe(
            written(tmp_path, {**base, "data": data, "passes": [{"kind": "finetune"}]})
        ),
        output=begun,
        device="cpu",
        allow_inconclusive=True,
    )
    assert report.passes[0].score_after == 1.0
    assert report.final is not None
    assert report.final.score.value == 1.0
    assert report.certification is not None
    assert report.certification.baseline.value == report.certification.final.value == 1.0

    texts = list(unseen.examples)
    untouched = compressor.load_checkpoint(tiny_bert_dir)
    own = (untouched.task, untouched.preprocessor)
    expected = predict_outputs(untouched, *own, unseen).numbers
    artifact = load_artifact(begun / "artifact")
    assert artifact.preprocessor.get_vocab()["good"] == untouched.preprocessor.get_vocab()["bad"]
    np.testing.assert_allclose(artifact.logits(texts), expected, atol=1e-4)


def written(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_without_labels_the_budget_is_a_share_of_changed_predictions(
    balanced: dict[str, Any], begun_balanced: Path, tmp_path: Path
):
    for name in ("search", "certification"):
        with Path(balanced["data"][name]["path"]).open(encoding="utf-8", newline="") as stream:
            texts = [row["text"] for row in csv.DictReader(stream)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text", *texts]) + "\n")
    data = {"text": "text"}
    data |= {name: {"path": str(tmp_path / f"{name}.csv")} for name in ("search", "certification")}
    steps = [{"kind": "quantize_dynamic", "min_elements": 64}]
    report = run(
        balanced, begun_balanced, data=data, passes=steps,
        budget={"metric": "agreement", "max_drop": 0.35}, benchmark={"providers": []},
    ).to_dict()  # fmt: skip
    assert report["baseline"]["score"]["value"] == 1.0
    proof = report["certificate"]
    assert (proof["metric"], proof["verdict"], proof["wins"]) == ("agreement", "certified", 0)
    assert proof["losses"] == len(report["flips"])
    assert proof["drop"] == pytest.approx(1 - report["certification"]["final"]["value"])
    assert {flip["kind"] for flip in report["flips"]} <= {"changed"}


def test_few_calibration_rows_of_int8_are_filled_up_from_train_and_told(
    base: dict[str, Any], self_labelled: Dataset, tmp_path: Path
):
    few = dataclasses.replace(
        self_labelled,
        examples=self_labelled.examples[:3],
        labels=np.asarray(self_labelled.labels)[:3],
    )
    calibration = {"path": str(write_split(tmp_path / "few.csv", few))}
    report = run(
        base,
        tmp_path / "run",
        data={**base["data"], "calibration": calibration},
        passes=[{"kind": "quantize_static", "min_elements": 0}],
        benchmark={"providers": []},
    )
    told = " ".join(report.passes[0].notes)
    assert "32 calibration rows, 29 of them of the train split" in told


def test_a_label_that_begins_as_a_path_does_ships_whole(balanced: dict[str, Any], tmp_path: Path):
    source = Path(balanced["model"]["checkpoint"])
    names = {0: "/m/09x0r", 1: "/*"}
    folder = tmp_path / "checkpoint"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    data = {**balanced["data"], "label_names": list(names.values())}
    data.pop("certification")
    run(
        {**balanced, "model": {"checkpoint": str(folder)}, "data": data},
        tmp_path / "run",
        benchmark={"providers": []},
    )
    manifest = json.loads((tmp_path / "run" / "artifact" / "manifest.json").read_text())
    assert manifest["recipe"]["data"]["label_names"] == ["/m/09x0r", "/*"]
    assert manifest["source"]["checkpoint"] == "checkpoint"
