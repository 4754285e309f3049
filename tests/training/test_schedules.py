import pytest

from compressor.training.schedules import cubic_sparsity, gradual_pruning, total_steps
from compressor.training.settings import TrainingSettings


def test_sparsity_is_initial_until_the_ramp_begins():
    assert cubic_sparsity(10, begin=10, end=20, initial=0.2, final=0.8) == pytest.approx(0.2)
    assert cubic_sparsity(3, begin=10, end=20, initial=0.2, final=0.8) == pytest.approx(0.2)


def test_sparsity_is_final_from_the_end_of_the_ramp():
    assert cubic_sparsity(20, begin=10, end=20, initial=0.2, final=0.8) == 0.8
    assert cubic_sparsity(99, begin=10, end=20, initial=0.2, final=0.8) == 0.8


def test_halfway_seven_eighths_of_the_way_are_done():
    # 1 - (1 - 1/2)^3 = 7/8
    assert cubic_sparsity(15, begin=10, end=20, initial=0.0, final=0.8) == pytest.approx(0.7)


def test_a_ramp_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="got 20 to 10"):
        cubic_sparsity(5, begin=20, end=10, initial=0.0, final=0.5)


class Recorder:
    def __init__(self) -> None:
        self.sparsities: list[float] = []
        self.holds = 0

    def prune_to(self, sparsity: float) -> None:
        self.sparsities.append(sparsity)

    def hold(self) -> None:
        self.holds += 1


def run_steps(total: int, *, sparsity: float, ramp_ratio: float) -> Recorder:
    recorder = Recorder()
    after_step = gradual_pruning(
        recorder.prune_to, recorder.hold, sparsity=sparsity, ramp_ratio=ramp_ratio
    )
    for step in range(1, total + 1):
        after_step(step, total)
    return recorder


def test_gradual_pruning_reaches_its_sparsity_at_the_end_of_the_ramp_and_holds_it():
    recorder = run_steps(8, sparsity=0.8, ramp_ratio=0.5)

    # Steps 1 to 4 of the ramp: 0.8 (1 - (1 - t/4)^3).
    assert recorder.sparsities == pytest.approx([0.4625, 0.7, 0.7875, 0.8])
    assert recorder.holds == 4


def test_gradual_pruning_of_one_step_prunes_in_it():
    assert run_steps(1, sparsity=0.5, ramp_ratio=0.1).sparsities == [0.5]


def test_gradual_pruning_ranks_the_weights_at_most_51_times():
    recorder = run_steps(10_000, sparsity=0.5, ramp_ratio=0.9)

    assert len(recorder.sparsities) <= 51
    assert recorder.sparsities[-1] == 0.5
    assert len(recorder.sparsities) + recorder.holds == 10_000


def test_fractions_of_epochs_are_not_rounded_up_by_what_binary_numbers_cannot_hold():
    assert total_steps(100, TrainingSettings(batch_size=1, epochs=1.1)) == 110
    assert total_steps(100, TrainingSettings(batch_size=1, epochs=1.101)) == 111
    assert total_steps(3, TrainingSettings(batch_size=32, epochs=1e-9)) == 1
