import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from masked_texts import save_masked_model
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import TorchModel, load_checkpoint, load_model
from compressor.passes import PassContext, TorchPass, apply_pass
from compressor.passes.distill.settings import Distill
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.passes.trim_vocabulary.settings import TrimVocabulary
from compressor.tasks import load_task
from compressor.training.teacher import check_inputs

ContextMaker = Callable[..., PassContext]


@pytest.fixture
def other_teacher_dir(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint that always predicts `positive`."""
    directory = tmp_path / "teacher"
    teacher = load_checkpoint(tiny_bert_dir)
    with torch.no_grad():
        teacher.module.classifier.weight.zero_()
        teacher.module.classifier.bias.copy_(torch.tensor([-2.0, 2.0]))
    teacher.save(directory)
    return directory


def logits(model: TorchModel, dataset: Dataset) -> torch.Tensor:
    encoded = model.task.encode(model.preprocessor, dataset.examples)
    return torch.from_numpy(model.predict(encoded))


def test_a_student_learns_from_the_untouched_checkpoint(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    goal = logits(tiny_bert, text_dataset)
    with torch.no_grad():
        tiny_bert.module.classifier.weight.mul_(-0.5)
    before = (logits(tiny_bert, text_dataset) - goal).square().mean()
    settings = Distill(epochs=10, batch_size=8, learning_rate=2e-3)

    student = apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    assert (logits(student, text_dataset) - goal).square().mean() < before / 2


def test_a_student_learns_from_another_checkpoint(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    settings = Distill(teacher=str(other_teacher_dir), epochs=10, batch_size=8, learning_rate=2e-3)

    student = apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    assert (logits(student, text_dataset).argmax(-1) == 1).float().mean() > 0.95


def test_a_student_of_fewer_layers_starts_as_those_layers(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    original = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    settings = Distill(student_layers=1, max_steps=1, learning_rate=1e-9, weight_decay=0)

    student = apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    state = student.module.state_dict()
    kept = "bert.encoder.layer.0.attention.self.query.weight"
    taken_from = "bert.encoder.layer.1.attention.self.query.weight"
    torch.testing.assert_close(state[kept], original[taken_from], atol=1e-6, rtol=0)
    assert not any(name.startswith("bert.encoder.layer.1.") for name in state)
    assert student.module.config.num_hidden_layers == 1
    assert notes[0] == "the student has layers 1 of 2"


def test_a_student_of_fewer_layers_saves_and_loads(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    tmp_path: Path,
):
    settings = Distill(student_layers=(0,), hidden_weight=1.0, attention_weight=1.0, max_steps=2)
    student = apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    student.save(tmp_path / "student")

    loaded = load_checkpoint(tmp_path / "student")
    torch.testing.assert_close(logits(loaded, text_dataset), logits(student, text_dataset))


def test_a_kept_layer_learns_from_the_teachers_layer_it_came_from(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    for child in tiny_bert.module.modules():
        if isinstance(child, torch.nn.Dropout):
            child.p = 0.0
    settings = Distill(student_layers=(0,), logits_weight=0.0, hidden_weight=1.0, max_steps=1)

    apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    # The student's only layer gives exactly what the teacher's first gives.
    assert notes[1].endswith("loss 0.0000 at the end")


def test_as_many_layers_as_before_are_refused(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    with pytest.raises(ValueError, match=r"student_layers: the model has 2 layers.*got 2"):
        apply_pass(
            Distill(student_layers=2), tiny_bert, make_context(tiny_bert_dir, train=text_dataset)
        )


def test_a_teacher_with_other_labels_is_refused(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    rename_labels(other_teacher_dir, "no", "yes")

    with pytest.raises(ValueError, match="the teacher's labels are"):
        apply_pass(
            Distill(teacher=str(other_teacher_dir)),
            tiny_bert,
            make_context(tiny_bert_dir, train=text_dataset),
        )


def rename_labels(directory: Path, *labels: str) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    file.write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def distilbert_dir(tiny_bert: TorchModel, tmp_path: Path) -> Path:
    """Return a pretrained DistilBERT without a head, with one more word in its vocabulary."""
    directory = tmp_path / "distilbert"
    tokenizer = tiny_bert.preprocessor
    tokenizer.add_tokens(["zebra"])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(directory)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=24,
        n_layers=1,
        n_heads=3,
        hidden_dim=48,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    transformers.DistilBertForMaskedLM(config).save_pretrained(directory)
    return directory


def test_a_student_of_another_architecture_gets_a_head_and_keeps_its_tokenizer(
    tiny_bert_dir: Path,
    distilbert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
    tmp_path: Path,
):
    unlabelled = dataclasses.replace(text_dataset, labels=None)
    settings = Distill(student=str(distilbert_dir), epochs=15, batch_size=8, learning_rate=3e-3)
    model = load_checkpoint(tiny_bert_dir)

    student = apply_pass(settings, model, make_context(tiny_bert_dir, train=unlabelled))

    assert student.labels == ("negative", "positive")
    assert student.preprocessor.get_vocab()["zebra"] == len(model.preprocessor)
    assert "(distilbert, " in notes[0]
    assert notes[0].endswith("with a new head")
    wanted = logits(model, text_dataset).argmax(-1)
    assert (logits(student, text_dataset).argmax(-1) == wanted).float().mean() > 0.9
    student.save(tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    torch.testing.assert_close(logits(loaded, text_dataset), logits(student, text_dataset))


def test_a_student_with_another_tokenizer_learns_logits_only(
    tiny_bert_dir: Path, distilbert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    settings = Distill(student=str(distilbert_dir), relation_weight=1.0)

    with pytest.raises(ValueError, match="the teacher reads examples in another way"):
        apply_pass(
            settings,
            load_checkpoint(tiny_bert_dir),
            make_context(tiny_bert_dir, train=text_dataset),
        )


def test_a_student_keeps_a_head_that_has_the_models_labels(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    settings = Distill(
        student=str(other_teacher_dir), max_steps=1, learning_rate=1e-9, weight_decay=0
    )

    student = apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    assert notes[0].endswith("with its own head")
    assert (logits(student, text_dataset).argmax(-1) == 1).all()


@pytest.mark.parametrize("labels", [("positive", "negative"), ("no", "yes")])
def test_a_student_with_other_labels_or_another_order_is_refused(
    labels: tuple[str, str],
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    rename_labels(other_teacher_dir, *labels)

    with pytest.raises(ValueError, match="student: its labels are"):
        apply_pass(
            Distill(student=str(other_teacher_dir)),
            tiny_bert,
            make_context(tiny_bert_dir, train=text_dataset),
        )


def test_a_student_that_reads_less_than_the_recipe_allows_is_refused(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    distilbert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    model = dataclasses.replace(tiny_bert, task=dataclasses.replace(tiny_bert.task, max_length=48))

    with pytest.raises(ValueError, match=r"at most 32 tokens, data\.max_length is 48"):
        apply_pass(
            Distill(student=str(distilbert_dir)),
            model,
            make_context(tiny_bert_dir, train=text_dataset),
        )


def test_a_student_that_is_not_there_is_an_environment_mismatch(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    tmp_path: Path,
):
    with pytest.raises(EnvironmentMismatch, match="nowhere"):
        apply_pass(
            Distill(student=str(tmp_path / "nowhere")),
            tiny_bert,
            make_context(tiny_bert_dir, train=text_dataset),
        )


def test_an_encoder_that_lacks_weights_is_refused_as_a_student(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    distilbert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    weights = distilbert_dir / "model.safetensors"
    state = load_file(weights)
    del state["distilbert.transformer.layer.0.ffn.lin1.weight"]
    save_file(state, weights, metadata={"format": "pt"})

    with pytest.raises(EnvironmentMismatch, match=r"weights lack .*ffn\.lin1\.weight"):
        apply_pass(
            Distill(student=str(distilbert_dir)),
            tiny_bert,
            make_context(tiny_bert_dir, train=text_dataset),
        )


@pytest.mark.parametrize(
    ("layer_map", "loss"), [("first", "0.0000"), ([[0, 0]], "0.0000"), ("last", None)]
)
def test_a_layer_map_says_which_layers_are_compared(
    layer_map: object,
    loss: str | None,
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    for child in tiny_bert.module.modules():
        if isinstance(child, torch.nn.Dropout):
            child.p = 0.0
    settings = Distill.model_validate(
        {
            "student_layers": [0],
            "layer_map": layer_map,
            "logits_weight": 0,
            "hidden_weight": 1,
            "max_steps": 1,
        }
    )

    apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    # The student's only layer gives what the teacher's first gives, and not what its last gives.
    assert notes[1].endswith(f"loss {loss} at the end") == (loss is not None)


def test_a_layer_map_out_of_range_is_refused(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    settings = Distill(layer_map=((0, 2),), hidden_weight=1.0)

    with pytest.raises(ValueError, match=r"layer_map: \(0, 2\) is out of range"):
        apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_map": "last"}, "layer_map would do nothing"),
        ({"layer_map": "middle", "hidden_weight": 1}, "'uniform', 'first' or 'last'"),
        ({"layer_map": [], "hidden_weight": 1}, "at least 1 item"),
        ({"layer_map": [[0, -1]], "hidden_weight": 1}, "greater than or equal to 0"),
    ],
)
def test_layer_maps_that_make_no_sense_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        Distill.model_validate(settings)


def test_a_teacher_that_is_not_there_is_an_environment_mismatch(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    tmp_path: Path,
):
    missing = tmp_path / "nowhere"
    shutil.rmtree(missing, ignore_errors=True)

    with pytest.raises(EnvironmentMismatch, match="nowhere"):
        apply_pass(
            Distill(teacher=str(missing)),
            tiny_bert,
            make_context(tiny_bert_dir, train=text_dataset),
        )


def test_it_reads_the_training_split_alone():
    assert Distill().required_splits() == {"train"}


@pytest.mark.parametrize("layers", [0, -1, (), (1, 0), (0, 0), (-1,), "many"])
def test_student_layers_that_make_no_student_are_refused(layers: object):
    with pytest.raises(ValidationError) as caught:
        Distill.model_validate({"student_layers": layers})

    assert {error["loc"][0] for error in caught.value.errors()} == {"student_layers"}


def test_a_teachers_directory_is_relative_to_the_recipe(tmp_path: Path):
    (tmp_path / "teacher").mkdir()

    settings = Distill.model_validate({"teacher": "teacher"}, context={"base_dir": tmp_path})

    assert settings.teacher == str(tmp_path / "teacher")


def test_student_layers_are_read_from_a_list():
    assert Distill.model_validate({"student_layers": [0, 2]}).student_layers == (0, 2)


def test_a_distillation_that_learns_nothing_is_refused():
    with pytest.raises(ValidationError, match="there is nothing to learn"):
        Distill.model_validate({"logits_weight": 0})


def test_the_checkpoints_it_reads_are_those_that_the_recipe_names():
    assert Distill().required_checkpoints() == {}
    named = Distill(teacher="org/large", student="org/small")
    assert named.required_checkpoints() == {"teacher": "org/large", "student": "org/small"}


def test_a_teacher_that_reads_less_than_the_recipe_allows_is_refused(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    settings = json.loads((other_teacher_dir / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 32
    (other_teacher_dir / "tokenizer_config.json").write_text(json.dumps(settings))
    model = dataclasses.replace(tiny_bert, task=dataclasses.replace(tiny_bert.task, max_length=48))

    with pytest.raises(ValueError, match=r"teacher: it reads at most 32 tokens, data\.max_length"):
        apply_pass(
            Distill(teacher=str(other_teacher_dir)),
            model,
            make_context(tiny_bert_dir, train=text_dataset),
        )


def test_a_teacher_makes_vectors_as_the_recipe_says(
    tiny_encoder: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    """A plain encoder says nothing of pooling, so the recipe does, for both ends alike."""
    plain = tmp_path / "plain"
    tiny_encoder.module.base_model.save_pretrained(plain)
    tiny_encoder.preprocessor.save_pretrained(plain)
    task = load_task("sentence-embedding", pooling="cls", normalize=True)
    student = load_model(find_checkpoint(str(plain)), task)
    context = make_context(train=dataclasses.replace(text_dataset, labels=None))

    settings = Distill(teacher=str(plain), max_steps=1, batch_size=48, dropout=False)
    apply_pass(settings, student, context)

    with safe_open(context.work_dir / "trained.safetensors", framework="pt") as content:
        facts = json.loads(content.metadata()["facts"])
    assert facts["final_loss"] == pytest.approx(0, abs=1e-6)


def test_a_teacher_whose_layers_share_weights_teaches_a_student_of_fewer_layers(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    """Only its predictions are learnt, so nothing has to be known of its layers."""
    config = transformers.AlbertConfig(
        vocab_size=len(tiny_bert.preprocessor),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label=tiny_bert.module.config.id2label,
    )
    transformers.AlbertForSequenceClassification(config).save_pretrained(tmp_path / "albert")
    tiny_bert.preprocessor.save_pretrained(tmp_path / "albert")
    settings = Distill(teacher=str(tmp_path / "albert"), student_layers=1, max_steps=1)

    student = apply_pass(settings, tiny_bert, make_context(train=text_dataset))

    assert student.module.config.num_hidden_layers == 1


def test_further_teachers_are_loaded_and_listened_to(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    alone = tiny_bert.clone()
    settings = Distill(epochs=5, batch_size=8, learning_rate=2e-3)
    apply_pass(settings, alone, make_context(tiny_bert_dir, train=text_dataset))
    both = settings.model_copy(update={"more_teachers": (str(other_teacher_dir),)})

    apply_pass(both, tiny_bert, make_context(tiny_bert_dir, work="both", train=text_dataset))

    towards = [logits(model, text_dataset).diff().mean() for model in (alone, tiny_bert)]
    assert towards[1] > towards[0] + 0.5  # the other one always says positive
    assert both.required_checkpoints() == {"more_teachers.0": str(other_teacher_dir)}
    assert "more_teachers" not in settings.settings


@pytest.fixture
def other_words_dir(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint of which two words have each other's ids."""
    folder = tmp_path / "other-words"
    shutil.copytree(tiny_bert_dir, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    pieces = content["model"]["vocab"]
    pieces["good"], pieces["bad"] = pieces["bad"], pieces["good"]
    path.write_text(json.dumps(content))
    return folder


def test_another_vocabulary_is_told_by_the_tokenizers_files(
    tiny_bert: TorchModel, tiny_bert_dir: Path, other_words_dir: Path, text_dataset: Dataset
):
    files, other = find_checkpoint(str(tiny_bert_dir)), load_checkpoint(other_words_dir)
    with pytest.raises(StepFailed, match="are the same") as in_layers:
        check_inputs(other, tiny_bert, text_dataset)
    with pytest.raises(StepFailed, match="are the same") as in_mixed:
        check_inputs(other, tiny_bert, text_dataset, mixes=True)

    def told(**settings: Any) -> list[tuple[str, str]]:
        return list(Distill(**settings).unfit_tokens(tiny_bert.task, files, files))

    assert told(student=str(other_words_dir), relation_weight=1.0) == [
        ("relation_weight", str(in_layers.value))
    ]
    assert told(student=str(other_words_dir), mixup_alpha=0.5) == [
        ("mixup_alpha", str(in_mixed.value))
    ]
    assert told(student=str(other_words_dir)) == told(relation_weight=1.0) == []


def test_a_vocabulary_that_a_pass_before_trims_is_not_compared_by_its_file(
    tiny_bert: TorchModel, tiny_bert_dir: Path, other_words_dir: Path
):
    files = find_checkpoint(str(tiny_bert_dir))
    settings = Distill(teacher=str(other_words_dir), hidden_weight=1.0)
    trimmed = TrimVocabulary().leaves(files)
    assert [key for key, _ in settings.unfit_tokens(tiny_bert.task, files, files)] == [
        "hidden_weight"
    ]
    assert list(settings.unfit_tokens(tiny_bert.task, trimmed, files)) == []


def test_a_masked_language_model_learns_of_one_with_its_own_vocabulary_alone(tmp_path: Path):
    files = find_checkpoint(str(save_masked_model(tmp_path / "own")))
    larger = find_checkpoint(str(save_masked_model(tmp_path / "larger", vocab_size=99)))
    [(key, why)] = Distill(teacher=str(larger.directory)).unfit_tokens(
        load_task("masked-language-modeling"), files, files
    )
    assert key == "teacher"
    assert "tokens, the teacher's 99; they must be the same" in why


@pytest.mark.parametrize(
    ("step", "key"),
    [
        (Distill(), "kind"),
        (QuantizeAwareTrain(teacher="baseline"), "kind"),
        (PruneStructured.of({"ratio": 0.2, "recovery": {"kind": "distill"}}), "recovery.kind"),
    ],
)
def test_a_trimmed_model_that_fills_in_tokens_learns_nothing_of_the_untouched_one(
    step: TorchPass, key: str, tmp_path: Path
):
    files = find_checkpoint(str(save_masked_model(tmp_path / "own")))
    task, trimmed = load_task("masked-language-modeling"), TrimVocabulary().leaves(files)
    assert list(step.unfit_tokens(task, files, files)) == []
    [(place, why)] = step.unfit_tokens(task, trimmed, files)
    assert place == key
    assert why.endswith("which was trimmed before; move that pass behind this one")
    assert list(step.unfit_tokens(load_task("text-classification"), trimmed, files)) == []


def test_a_further_teacher_of_other_labels_is_named(tiny_bert_dir: Path, other_teacher_dir: Path):
    config = json.loads((other_teacher_dir / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "no", "1": "yes"}, {"no": 0, "yes": 1}
    (other_teacher_dir / "config.json").write_text(json.dumps(config))
    files = find_checkpoint(str(tiny_bert_dir))

    [(key, why)] = Distill(more_teachers=(str(other_teacher_dir),)).unfit_to(files, files)

    assert key == "more_teachers.0"
    assert "its labels are ['no', 'yes']" in why


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"more_teachers": ["a/b", "a/b"]}, "name each teacher once"),
        ({"teacher": "a/b", "more_teachers": ["a/b"]}, "name each teacher once"),
        ({"more_teachers": ["a/b"], "logits_weight": 0, "label_weight": 1}, "would do nothing"),
    ],
)
def test_teachers_that_say_nothing_more_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        Distill.model_validate(settings)


def test_teachers_are_heard_and_kept_by_the_margins_of_their_scores_alone():
    settings = {"logits_weight": 0, "margin_weight": 1, "teacher_cache": "kept"}
    found = Distill.model_validate({**settings, "more_teachers": ["a/b"]})
    assert found.more_teachers == ("a/b",)
    with pytest.raises(ValidationError, match="no output of a teacher is learnt from"):
        Distill.model_validate({**settings, "margin_weight": 0, "label_weight": 1})
