import pytest

from compressor.training.layer_map import chosen_layers, layer_map_of, uniform_layer_map


def test_uniform_map_of_tinybert_takes_every_third_of_twelve_layers():
    # TinyBERT, section 3.2: g(m) = 3 m for 4 of 12 layers, counted from 1 there.
    assert uniform_layer_map(4, 12) == ((0, 2), (1, 5), (2, 8), (3, 11))


def test_uniform_map_of_equal_depths_pairs_each_layer_with_its_own():
    assert uniform_layer_map(3, 3) == ((0, 0), (1, 1), (2, 2))


def test_uniform_map_uses_no_teacher_layer_twice_when_depths_do_not_divide():
    assert uniform_layer_map(4, 6) == ((0, 1), (1, 2), (2, 4), (3, 5))


def test_uniform_map_of_a_deeper_student_ends_with_the_teachers_last_layer():
    assert uniform_layer_map(3, 2) == ((0, 0), (1, 1), (2, 1))


def test_a_number_of_layers_is_spread_evenly_and_keeps_the_last():
    assert chosen_layers(2, 6) == (2, 5)


def test_listed_layers_are_taken_as_they_are():
    assert chosen_layers((0, 5), 6) == (0, 5)


def test_as_many_layers_as_the_model_has_are_refused():
    with pytest.raises(ValueError, match=r"the model has 6 layers.*got 6"):
        chosen_layers(6, 6)


def test_a_listed_layer_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"layers 0 to 5, got \[1, 6\]"):
        chosen_layers((1, 6), 6)


@pytest.mark.parametrize(
    ("wanted", "pairs"),
    [
        ("uniform", ((0, 1), (1, 3))),
        ("first", ((0, 0), (1, 1))),
        ("last", ((0, 2), (1, 3))),
        (((1, 0), (1, 3)), ((1, 0), (1, 3))),
    ],
)
def test_a_layer_map_has_a_name_or_is_listed(wanted: object, pairs: tuple[tuple[int, int], ...]):
    assert layer_map_of(wanted, 2, 4) == pairs  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", ["first", "last"])
def test_a_student_that_is_deeper_than_its_teacher_has_no_first_or_last_layers(wanted: str):
    with pytest.raises(ValueError, match="the student has 3 and the teacher 2"):
        layer_map_of(wanted, 3, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", [(2, 0), (0, 4), (-1, 0), (0, -1)])
def test_a_pair_that_is_out_of_range_is_refused(pair: tuple[int, int]):
    with pytest.raises(ValueError, match="is out of range; the student has 2 layers"):
        layer_map_of(((0, 0), pair), 2, 4)
