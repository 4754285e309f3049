from __future__ import annotations

import csv
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from conftest import NEUTRAL, TINY, word_piece_tokenizer
from PIL import Image
from scored_texts import query_rows, trained_reranker, write_jsonl

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.torch_model import load_checkpoint
from compressor.pipeline.run import run
from compressor.pipeline.wanted_splits import read_splits
from compressor.recipe.recipe import load_recipe
from compressor.starter import trial, write
from compressor.starter.sources import Wishes
from compressor.starter.write import write_starter
from compressor.tasks import load_task
from compressor.tasks.similarity import cosines

TASK = "sentence-embedding"
Rows = list[list[Any]]
Make = Callable[[Path, Dataset, str], Path]


def write_rows(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture
def rows(told: Rows, tmp_path: Path) -> Path:
    content = [[text, ("Negative", "Positive")[label]] for text, label in told]
    return write_rows(tmp_path / "my rows.csv", ["review", "sentiment"], content)


def test_a_starter_recipe_is_valid_and_runs(tiny_bert_dir: Path, rows: Path, tmp_path: Path):
    output = tmp_path / "recipe.yaml"
    written = write_starter(str(tiny_bert_dir), rows, output)

    small = ["benchmark.num_runs=1", "benchmark.warmup_runs=1"]
    recipe = load_recipe(output, small)
    report = run(recipe, output=tmp_path / "run", device="cpu")

    assert written.passes == recipe.passes
    assert report.verdict == "passed"
    assert [record.kind for record in report.passes] == ["quantize_dynamic"]
    assert recipe.data.label_names == ("Negative", "Positive")


def test_every_guess_stands_in_the_recipe(tiny_bert_dir: Path, rows: Path, tmp_path: Path):
    output = tmp_path / "recipe.yaml"
    write_starter(str(tiny_bert_dir), rows, output)
    data = yaml.safe_load(output.read_text(encoding="utf-8"))
    assert data["data"]["text"] == "review"
    assert data["data"]["label"] == "sentiment"
    assert data["data"]["label_names"] == ["Negative", "Positive"]
    assert data["data"]["search"] == {"path": "./my rows.csv"}
    assert "max_length" not in data["data"]  # measured as long as they are
    assert "# The longest row has 14 tokens." in output.read_text(encoding="utf-8")
    # Of the 48 rows, if that many, those that calibrate are cut off, and one of the rest is more
    # than a point.
    assert data["budget"]["metric"] == "accuracy"
    assert 0.02 < data["budget"]["max_drop"] <= 0.05
    assert data["on_failure"] == "repair"
    assert (tmp_path / data["model"]["checkpoint"]).resolve() == tiny_bert_dir.resolve()
    assert "# Machine: " in output.read_text(encoding="utf-8")


def test_a_checkpoint_without_a_limit_gets_one_that_can_be_checked(
    tiny_bert_dir: Path, rows: Path, text_dataset: Dataset, balance: Make, tmp_path: Path
):
    sizes = {"d_model": 64, "n_layer": 1, "n_head": 2, "d_inner": 24, "vocab_size": 40}
    names = {0: "negative", 1: "positive"}
    config = transformers.XLNetConfig(
        **sizes, pad_token_id=0, id2label=names, label2id={name: id_ for id_, name in names.items()}
    )
    transformers.XLNetForSequenceClassification(config).save_pretrained(tmp_path / "xlnet")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tiny_bert_dir, model_max_length=10**30, padding_side="left"
    )
    tokenizer.save_pretrained(tmp_path / "xlnet")
    checkpoint = balance(tmp_path / "xlnet", text_dataset, "logits_proj")
    recipe = write_starter(str(checkpoint), rows, tmp_path / "recipe.yaml")
    assert recipe.export.max_length == 512


def test_other_files_have_their_own_columns(
    tiny_bert_dir: Path, rows: Path, told: Rows, fresh: Rows, tmp_path: Path
):
    other = write_rows(
        tmp_path / "train.csv", ["label", "text"], [[label, text] for text, label in told]
    )
    names = ("Negative", "Positive")
    content = [[text, names[label]] for text, label in fresh]
    unseen = write_rows(tmp_path / "unseen.csv", ["review", "sentiment"], content)
    recipe = write_starter(
        str(tiny_bert_dir), rows, tmp_path / "recipe.yaml", train=other, certification=unseen
    )
    assert recipe.data.train is not None
    assert (recipe.data.train.text, recipe.data.train.label) == ("text", "label")
    assert recipe.data.certification is not None
    assert recipe.data.certification.text is None


def test_rows_without_labels_are_gated_by_agreement(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    data = write_rows(tmp_path / "rows.csv", ["text"], [[text] for text, _ in told])
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml")
    assert recipe.budget.metric == "agreement"


def write_images(folder: Path, dataset: Dataset) -> Path:
    for number, pixels in enumerate(dataset.examples):
        Image.fromarray(np.asarray(pixels)).save(folder / f"{number}.png")
    content = [[f"{number}.png", number % 3] for number in range(len(dataset))]
    return write_rows(folder / "rows.csv", ["image", "digit"], content)


def test_a_model_of_convolutions_has_them_in_int8(
    tiny_resnet_dir: Path, image_dataset: Dataset, balance: Make, tmp_path: Path
):
    data = write_images(tmp_path, image_dataset)
    checkpoint = balance(tiny_resnet_dir, image_dataset, "classifier.1")
    recipe = write_starter(str(checkpoint), data, tmp_path / "recipe.yaml")
    [step] = recipe.passes
    assert (step.kind, step.settings["convolutions"]) == ("quantize_static", "int8")
    few = tmp_path / "few.csv"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:16]))
    with pytest.raises(RecipeError, match="15 rows are too few to cut any"):
        write_starter(str(checkpoint), few, tmp_path / "another.yaml")


def test_images_have_no_lengths(tiny_vit_dir: Path, image_dataset: Dataset, tmp_path: Path):
    data = write_images(tmp_path, image_dataset)
    recipe = write_starter(str(tiny_vit_dir), data, tmp_path / "recipe.yaml")
    assert recipe.data.image == "image"
    assert recipe.data.label == "digit"
    assert recipe.data.max_length is None


def test_a_folder_of_images_is_one_source(
    tiny_vit_dir: Path, image_dataset: Dataset, tmp_path: Path
):
    labels = load_checkpoint(tiny_vit_dir).module.config.id2label
    for part in ("train", "test"):
        for number, pixels in enumerate(image_dataset.examples):
            place = tmp_path / "images" / part / labels[number % 3] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(pixels)).save(place)
    recipe = write_starter(str(tiny_vit_dir), tmp_path / "images", tmp_path / "recipe.yaml")
    assert (recipe.data.image, recipe.data.label) == ("image", "label")
    assert recipe.data.search.images == tmp_path / "images" / "test"
    assert recipe.data.train is not None
    assert recipe.data.train.images == tmp_path / "images" / "train"


def test_an_architecture_that_cannot_be_pruned_is_only_quantized(
    tiny_bert_dir: Path, rows: Path, text_dataset: Dataset, balance: Make, tmp_path: Path
):
    tokenizer = load_checkpoint(tiny_bert_dir).preprocessor
    config = transformers.AlbertConfig(
        vocab_size=len(tokenizer), embedding_size=16, hidden_size=32, num_attention_heads=4,
        intermediate_size=64, num_hidden_layers=2, num_hidden_groups=2,
        id2label={0: "negative", 1: "positive"},
    )  # fmt: skip
    checkpoint = tmp_path / "albert"
    transformers.AlbertForSequenceClassification(config).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    checkpoint = balance(checkpoint, text_dataset, "classifier")
    recipe = write_starter(str(checkpoint), rows, tmp_path / "recipe.yaml")
    assert [step.kind for step in recipe.passes] == ["quantize_dynamic"]
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "# No structured pruning: its layers are in several groups, each with weights" in text


def test_a_recipe_that_exists_is_kept(tiny_bert_dir: Path, rows: Path, tmp_path: Path):
    output = tmp_path / "recipe.yaml"
    output.write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        write_starter(str(tiny_bert_dir), rows, output)
    assert output.read_text() == "mine"
    write_starter(str(tiny_bert_dir), rows, output, force=True)
    assert output.read_text() != "mine"


def test_nothing_is_written_when_a_column_cannot_be_guessed(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    content = [[text, ("bad", "good")[label]] for text, label in told]
    data = write_rows(tmp_path / "rows.csv", ["text", "label"], content)
    with pytest.raises(RecipeError, match="give --label-names"):
        write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()
    wishes = Wishes(label_names=("bad", "good"))
    assert write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", wishes=wishes)


def test_a_text_that_is_no_text_is_told_by_its_row(tiny_bert_dir: Path, tmp_path: Path):
    lines = ['{"text": "a fine film", "label": 1}', '{"text": "\\ud800", "label": 0}'] * 2
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=r"rows\.jsonl:2: text holds half of a surrogate pair"):
        write_starter(str(tiny_bert_dir), tmp_path / "rows.jsonl", tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, EnvironmentMismatch, "no such file"),
        ("", RecipeError, "the file is empty"),
        ("text,label\na fine film,1\n", RecipeError, "has 1 row, at least 2 are needed"),
    ],
)
def test_data_that_is_not_there_is_refused(
    tiny_bert_dir: Path, tmp_path: Path, content: str | None, error: type[Exception], message: str
):
    if content is not None:
        (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(error, match=message):
        write_starter(str(tiny_bert_dir), tmp_path / "rows.csv", tmp_path / "recipe.yaml")


def test_names_that_yaml_would_misread_are_quoted(tiny_bert_dir: Path, told: Rows, tmp_path: Path):
    data = write_rows(tmp_path / "a: b, {c}.csv", ["no", "yes"], told)
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml")
    assert (recipe.data.text, recipe.data.label) == ("no", "yes")
    assert recipe.data.search is not None
    assert recipe.data.search.path == data


def test_a_sentence_encoder_is_gated_by_cosine_or_by_grades(
    tiny_encoder_dir: Path, rows: Path, told: Rows, tmp_path: Path
):
    wishes = Wishes(metric="cosine")
    recipe = write_starter(str(tiny_encoder_dir), rows, tmp_path / "texts.yaml", wishes=wishes)
    assert (recipe.model.task, recipe.budget.metric) == ("sentence-embedding", "cosine")
    assert recipe.data.text == "review"
    assert not [key for step in recipe.passes for key in step.unfit_for(load_task(TASK))]
    text = (tmp_path / "texts.yaml").read_text(encoding="utf-8")
    assert "# vectors: mean over tokens, length 1" in text
    texts = [text for text, _ in told]
    model = load_checkpoint(tiny_encoder_dir)
    vectors = model.predict(model.task.encode(model.preprocessor, texts))
    grades = cosines(vectors[:-1], vectors[1:])  # only this encoder knows them
    content = [
        [*pair, grade] for pair, grade in zip(itertools.pairwise(texts), grades, strict=True)
    ]
    pairs = write_rows(tmp_path / "pairs.csv", ["sentence1", "sentence2", "score"], content)
    graded = write_starter(str(tiny_encoder_dir), pairs, tmp_path / "pairs.yaml")
    assert (graded.budget.metric, graded.data.label) == ("spearman", "score")
    assert graded.data.text == ("sentence1", "sentence2")


def test_label_names_of_a_sentence_encoder_are_refused(
    tiny_encoder_dir: Path, rows: Path, tmp_path: Path
):
    wishes = Wishes(label_names=("bad", "good"))
    with pytest.raises(RecipeError, match="--label-names: sentence-embedding has no labels"):
        write_starter(str(tiny_encoder_dir), rows, tmp_path / "recipe.yaml", wishes=wishes)


def test_files_that_name_the_classes_otherwise_are_refused(
    tiny_bert_dir: Path, rows: Path, tmp_path: Path
):
    """A recipe has one list of names, so the run would refuse one of the two."""
    lower = [["a very dull film", "negative"], ["a fine plot", "positive"]]
    other = write_rows(tmp_path / "train.csv", ["text", "label"], lower)
    with pytest.raises(RecipeError, match=r"train\.csv: column 'label' holds negative"):
        write_starter(str(tiny_bert_dir), rows, tmp_path / "recipe.yaml", train=other)


def test_a_starter_for_few_rows_without_a_training_file_holds_its_own_budget(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    """The calibration rows are cut from the same file, which leaves fewer to judge on."""
    data = write_rows(tmp_path / "rows.csv", ["text", "label"], told)
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml")
    splits = read_splits(
        recipe,
        task=load_task("text-classification"),
        label_names=("negative", "positive"),
        metric="accuracy",
    )
    assert recipe.budget.resolution_mistake(len(splits["search"])) is None


def test_rows_too_few_to_prune_by_are_only_quantized(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    """Nothing is cut from ten rows, and no budget is finer than one of them."""
    data = write_rows(tmp_path / "rows.csv", ["text", "label"], told[:10])
    output = tmp_path / "recipe.yaml"
    recipe = write_starter(str(tiny_bert_dir), data, output)
    assert [step.kind for step in recipe.passes] == ["quantize_dynamic"]
    assert "# No structured pruning: 10 rows are too few to fit weights by." in output.read_text()
    splits = read_splits(
        recipe,
        task=load_task("text-classification"),
        label_names=("negative", "positive"),
        metric="accuracy",
    )
    assert set(splits) == {"search"}
    assert recipe.budget.resolution_mistake(10) is None


def test_a_training_file_gives_the_rows_to_prune_by(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    data = write_rows(tmp_path / "rows.csv", ["text", "label"], told * 20)
    train = write_rows(tmp_path / "train.csv", ["text", "label"], told)
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", train=train)
    assert [step.kind for step in recipe.passes] == ["prune_structured", "quantize_dynamic"]
    assert recipe.data.calibration == recipe.data.train


def test_how_fast_a_checkpoint_is_does_not_depend_on_what_else_the_machine_does(
    tiny_bert_dir: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pause = 1.0  # as if another process had the CPU
    predict, look = trial.predict_outputs, trial.look_at
    seen: list[trial.Trial] = []

    def slowly(*given: Any, **named: Any) -> Any:
        time.sleep(pause)
        return predict(*given, **named)

    def seen_by(*given: Any, **named: Any) -> Any:
        seen.append(look(*given, **named))
        return seen[-1]

    monkeypatch.setattr(trial, "predict_outputs", slowly)
    monkeypatch.setattr(write, "look_at", seen_by)
    write.write_starter(str(tiny_bert_dir), rows, tmp_path / "recipe.yaml")
    [found] = seen
    assert 0 < found.seconds_per_row < 0.8 * pause / len(found.searched)


@pytest.mark.parametrize("name", [".5", "1e3", "null", "yes", "0x1", "text"])
def test_any_name_of_a_column_is_read_back_as_it_is(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path, name: str
):
    data = write_rows(tmp_path / "rows.csv", [name, "label"], told)
    wishes = Wishes(inputs=(name,))
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", wishes=wishes)
    assert recipe.data.text == name


def test_a_link_keeps_its_own_name(tiny_bert_dir: Path, told: Rows, tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    data = write_rows(tmp_path / "blobs" / "abc123", ["text", "label"], told)
    (tmp_path / "rows.csv").symlink_to(data)
    wishes = Wishes(inputs=("text",))
    recipe = write_starter(
        str(tiny_bert_dir), tmp_path / "rows.csv", tmp_path / "recipe.yaml", wishes=wishes
    )
    assert recipe.data.search is not None
    assert recipe.data.search.path == tmp_path / "rows.csv"


def test_a_directory_is_no_recipe(tiny_bert_dir: Path, rows: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match="is a directory; give --output a file in it"):
        write_starter(str(tiny_bert_dir), rows, tmp_path, force=True)


@pytest.mark.parametrize("name", ["pipe", "loop"])
def test_a_recipe_is_not_written_into_a_pipe_or_a_circle_of_links(
    tiny_bert_dir: Path, tmp_path: Path, name: str
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RecipeError, match="give --output a file to write the recipe to"):
        write_starter(str(tiny_bert_dir), tmp_path / "rows.csv", tmp_path / name, force=True)


def test_a_tsv_that_may_be_quoted_or_not_is_written_with_what_was_said(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    rows = tmp_path / "rows.tsv"
    lines = [f'{label}\t"{text}"' for text, label in told]
    rows.write_text("\n".join(["label\ttext", *lines]) + "\n")
    output = tmp_path / "recipe.yaml"
    with pytest.raises(RecipeError, match="compress init --quoting"):
        write_starter(str(tiny_bert_dir), rows, output)
    recipe = write_starter(str(tiny_bert_dir), rows, output, wishes=Wishes(quoting="none"))
    assert recipe.data.search is not None
    assert recipe.data.search.quoting == "none"


def test_an_empty_file_of_json_lines_is_refused(tiny_bert_dir: Path, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(RecipeError, match="has 0 rows, at least 2 are needed"):
        write_starter(str(tiny_bert_dir), tmp_path / "rows.jsonl", tmp_path / "recipe.yaml")


def test_a_reranker_is_judged_query_by_query(tmp_path: Path):
    trained_reranker(tmp_path / "model")
    data = write_jsonl(tmp_path / "dev.jsonl", query_rows(0, 60))
    unseen = write_jsonl(tmp_path / "unseen.jsonl", query_rows(1, 150))
    output = tmp_path / "recipe.yaml"
    recipe = write_starter(str(tmp_path / "model"), data, output, certification=unseen)
    assert (recipe.model.task, recipe.budget.metric) == ("text-scoring", "ndcg@10")
    assert (recipe.data.text, recipe.data.label) == (("query", "passage"), "relevance")
    assert recipe.data.group == "query_id"
    assert recipe.data.certification is not None


def test_questions_with_answers_are_scored_by_f1(tmp_path: Path):
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(**TINY, vocab_size=len(tokenizer), max_position_embeddings=64)
    module = transformers.BertForQuestionAnswering(config)
    with torch.no_grad():
        module.qa_outputs.weight.mul_(5)
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = load_checkpoint(tmp_path / "model")
    random = np.random.default_rng(0)
    pairs = [(word, " ".join(random.choice(NEUTRAL, 9))) for word in NEUTRAL * 8]
    batch = model.task.encode(tokenizer, pairs)
    outputs = model.task.collect([model.predict(batch)], [batch])
    lines = []
    for (question, context), [best, *_] in zip(
        pairs, model.task.predictions(outputs, ()), strict=True
    ):
        found = {"text": [best["answer"]], "answer_start": [best["start"]]}
        answers = found if best["answer"] else {"text": [], "answer_start": []}
        lines.append(json.dumps({"question": question, "context": context, "answers": answers}))
    (tmp_path / "dev.jsonl").write_text("\n".join(lines))
    output = tmp_path / "recipe.yaml"
    recipe = write_starter(str(tmp_path / "model"), tmp_path / "dev.jsonl", output)
    assert recipe.data.text == ("question", "context")
    assert recipe.data.label == "answers"
    assert recipe.budget.metric == "answer_f1"
    assert "# right answers, and where in the context they begin" in output.read_text()
    with pytest.raises(RecipeError, match="--label-names: question-answering has no labels"):
        write_starter(
            str(tmp_path / "model"),
            tmp_path / "dev.jsonl",
            tmp_path / "other.yaml",
            wishes=Wishes(label_names=("a", "b")),
        )
