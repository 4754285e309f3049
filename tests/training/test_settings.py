import pytest
from pydantic import TypeAdapter, ValidationError

from compressor.training.distill_settings import (
    DistillRecovery,
    DistillSettings,
    FinetuneRecovery,
    Recovery,
)
from compressor.training.settings import FinetuneSettings


def locations(error: ValidationError) -> list[tuple[int | str, ...]]:
    return [item["loc"] for item in error.errors()]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", float("inf")),
        ("max_steps", 0),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", 1.5),
        ("batch_size", 0),
        ("weight_decay", -0.1),
        ("warmup_ratio", 1.0),
        ("schedule", "steps"),
        ("cycles", 1),
        ("decay_factor", 1.0),
        ("layer_decay", 0.0),
        ("epoch", 1),
    ],
)
def test_a_training_setting_out_of_range_is_refused(key: str, value: object):
    with pytest.raises(ValidationError) as caught:
        FinetuneSettings.model_validate({key: value})

    assert locations(caught.value) == [(key,)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0),
        ("temperature", float("inf")),
        ("logits_weight", -1),
        ("hidden_weight", -1),
        ("attention_weight", float("nan")),
        ("label_weight", -1),
    ],
)
def test_a_distillation_setting_out_of_range_is_refused(key: str, value: object):
    with pytest.raises(ValidationError) as caught:
        DistillSettings.model_validate({key: value})

    assert locations(caught.value) == [(key,)]


def test_distillation_that_learns_nothing_is_refused():
    with pytest.raises(ValidationError, match="are all 0, so there is nothing to learn"):
        DistillSettings(logits_weight=0.0)


def test_recovery_is_told_apart_by_its_kind():
    adapter: TypeAdapter[Recovery] = TypeAdapter(Recovery)

    assert adapter.validate_python({"kind": "finetune", "epochs": 2}) == FinetuneRecovery(epochs=2)
    assert adapter.validate_python({"kind": "distill"}) == DistillRecovery()


@pytest.mark.parametrize(
    "settings",
    [{"relation_heads": 4}, {"relation_layer": 0}, {"relations": ["values"]}],
)
def test_settings_of_relations_that_are_not_learnt_are_refused(settings: dict[str, object]):
    with pytest.raises(ValidationError, match="would do nothing without relation_weight"):
        DistillSettings.model_validate(settings)


def test_a_relation_that_is_listed_twice_is_refused():
    with pytest.raises(ValidationError, match="list each once"):
        DistillSettings(relation_weight=1.0, relations=("keys", "keys"))


@pytest.mark.parametrize("weight", ["sublayer_weight", "relation_weight"])
def test_one_loss_on_layers_is_enough_to_learn(weight: str):
    assert DistillSettings.model_validate({"logits_weight": 0, weight: 1}).compares_layers


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"cycles": 3}, "cosine_with_restarts"),
        ({"power": 1.0, "schedule": "cosine"}, "polynomial"),
        ({"decay_ratio": 0.2}, "warmup_stable_decay"),
        ({"decay_factor": 0.5}, "step or exponential or reduce_on_plateau"),
        ({"decay_epochs": 2.0}, "step or exponential"),
        ({"final_lr_ratio": 0.1}, "cosine or polynomial or warmup_stable_decay or reduce"),
    ],
)
def test_a_setting_of_another_schedule_is_refused(settings: dict[str, object], needed: str):
    with pytest.raises(ValidationError, match=f"belongs to schedule {needed}.* would do nothing"):
        FinetuneSettings.model_validate(settings)


def test_later_settings_at_their_defaults_are_not_written():
    plain = FinetuneRecovery()

    assert plain.model_dump() == FinetuneRecovery(layer_decay=1.0, cycles=2).model_dump()
    assert set(plain.model_dump()) == {
        "epochs", "max_steps", "learning_rate", "batch_size", "weight_decay", "warmup_ratio",
        "schedule", "freeze_embeddings", "dropout", "precision", "tensorboard", "kind",
    }  # fmt: skip
    assert FinetuneRecovery(layer_decay=0.9).model_dump()["layer_decay"] == 0.9
    assert (
        TypeAdapter(Recovery).dump_python(FinetuneRecovery(layer_decay=0.9))["layer_decay"] == 0.9
    )


def test_unwritten_defaults_are_settings():
    assert FinetuneSettings.unwritten_defaults <= FinetuneSettings.model_fields.keys()
