import pytest
import torch

from compressor.models.torch_model import TorchModel
from compressor.passes.prune_magnitude.masks import (
    MaskedParameters,
    global_magnitude_masks,
    layer_magnitude_masks,
    magnitude_mask,
    prunable_weights,
    row_masks,
    two_of_four_masks,
)


def test_mask_keeps_the_largest_weights():
    weight = torch.tensor([[0.1, -0.9], [0.5, -0.2]])

    assert magnitude_mask(weight, sparsity=0.5).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("sparsity", "zeros"), [(0.0, 0), (0.1, 100), (0.5, 500), (0.999, 999), (1.0, 1000)]
)
def test_share_of_zeros_is_exact(sparsity: float, zeros: int):
    weight = torch.randn(10, 100, generator=torch.Generator().manual_seed(0))

    assert int((~magnitude_mask(weight, sparsity)).sum()) == zeros


def test_of_equal_weights_the_earlier_ones_go():
    weight = torch.tensor([2.0, -1.0, 1.0, 1.0, -1.0])

    assert magnitude_mask(weight, sparsity=0.4).tolist() == [True, False, False, True, True]


def test_a_tensor_of_one_value_loses_exactly_its_share():
    assert magnitude_mask(torch.ones(4), sparsity=0.5).tolist() == [False, False, True, True]


def test_global_masks_rank_all_tensors_together():
    weights = {
        "small": torch.tensor([0.1, 0.2, 0.3]),
        "large": torch.tensor([[3.0], [0.25], [2.0]]),
    }

    masks = global_magnitude_masks(weights, sparsity=0.5)

    assert masks["small"].tolist() == [False, False, True]
    assert masks["large"].tolist() == [[True], [False], [True]]


def test_layer_masks_give_each_tensor_the_same_share():
    weights = {"small": torch.tensor([0.1, 0.2]), "large": torch.tensor([3.0, 2.0])}

    masks = layer_magnitude_masks(weights, sparsity=0.5)

    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "small": [False, True],
        "large": [True, False],
    }


def test_a_higher_sparsity_drops_everything_a_lower_one_dropped():
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0))
    lower, higher = (
        magnitude_mask(weight, 0.3),
        magnitude_mask(weight * magnitude_mask(weight, 0.3), 0.6),
    )

    assert bool((~higher)[~lower].all())


def test_masks_of_no_weights_are_none():
    assert global_magnitude_masks({}, 0.5) == {}


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_a_sparsity_that_is_no_fraction_is_refused(sparsity: float):
    with pytest.raises(ValueError, match=f"from 0 to 1, got {sparsity}"):
        magnitude_mask(torch.ones(3), sparsity)


def test_weights_that_are_not_finite_are_refused_by_name():
    weights = {"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}

    with pytest.raises(ValueError, match="bad holds weights that are not finite"):
        global_magnitude_masks(weights, 0.5)


def test_held_weights_go_back_to_zero_after_each_optimizer_step():
    parameter = torch.nn.Parameter(torch.tensor([0.1, 2.0, -3.0]))
    held = MaskedParameters({"weight": parameter})
    optimizer = torch.optim.AdamW([parameter], lr=0.5)
    held.set_masks(global_magnitude_masks(held.parameters, sparsity=1 / 3))

    (parameter - 5.0).square().sum().backward()
    optimizer.step()
    moved = parameter.tolist()
    held.hold()

    assert moved[0] != 0.0
    assert parameter.tolist() == [0.0, *moved[1:]]
    assert held.zeros() == (1, 3)


ENCODER_WEIGHTS_OF_BERT = {
    f"bert.encoder.layer.{layer}.{part}.weight"
    for layer in (0, 1)
    for part in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
} | {"bert.pooler.dense.weight"}


def test_the_classifier_and_the_embeddings_of_bert_are_not_prunable(tiny_bert: TorchModel):
    names = set(prunable_weights(tiny_bert.module, include_embeddings=False))

    assert names == ENCODER_WEIGHTS_OF_BERT


def test_the_embedding_tables_of_bert_are_prunable_when_asked(tiny_bert: TorchModel):
    names = set(prunable_weights(tiny_bert.module, include_embeddings=True))

    assert names == ENCODER_WEIGHTS_OF_BERT | {
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
    }


def test_the_patch_projection_of_vit_counts_as_its_embedding(tiny_vit: TorchModel):
    without = set(prunable_weights(tiny_vit.module, include_embeddings=False))
    with_embeddings = set(prunable_weights(tiny_vit.module, include_embeddings=True))

    assert with_embeddings - without == {"vit.embeddings.patch_embeddings.projection.weight"}
    assert len(without) == 2 * 6


def test_row_masks_take_the_same_share_of_every_output():
    scores = {"weight": torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])}

    masks = row_masks(scores, 0.5)

    assert masks["weight"].tolist() == [[False, False, True, True], [True, True, False, False]]


def test_two_of_four_keeps_the_two_largest_of_every_four_inputs():
    scores = {"weight": torch.tensor([[1.0, 9.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]])}

    masks = two_of_four_masks(scores)

    # Of equal ones the earlier go.
    expected = [[False, True, True, False, False, False, True, True]]
    assert masks["weight"].tolist() == expected


def test_two_of_four_is_what_torch_computes_by_its_own_semi_structured_kernels():
    from torch.sparse._semi_structured_conversions import (
        sparse_semi_structured_from_dense_cutlass,
        sparse_semi_structured_to_dense_cutlass,
    )

    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).half()
    pruned = weight * two_of_four_masks({"weight": weight.abs()})["weight"]

    # A lossless round trip through the compressed form says that the pattern lies along inputs.
    compressed = sparse_semi_structured_from_dense_cutlass(pruned)

    assert torch.equal(sparse_semi_structured_to_dense_cutlass(*compressed), pruned)
    across = weight * two_of_four_masks({"weight": weight.abs().T})["weight"].T
    lost = sparse_semi_structured_to_dense_cutlass(
        *sparse_semi_structured_from_dense_cutlass(across)
    )
    assert not torch.equal(lost, across)
