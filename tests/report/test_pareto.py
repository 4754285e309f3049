import numpy as np

from compressor.report.chart_parts import pareto_front


def dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first[0] <= second[0] and first[1] >= second[1] and first != second


def test_the_front_is_what_nothing_dominates():
    random = np.random.default_rng(0)
    points = [(float(cost), float(score)) for cost, score in random.integers(0, 12, size=(60, 2))]
    front = {points[index] for index in pareto_front(points)}
    assert front == {
        point for point in points if not any(dominates(other, point) for other in points)
    }


def test_the_front_goes_from_cheap_to_dear():
    assert pareto_front([(3.0, 0.9), (1.0, 0.7), (2.0, 0.8), (2.5, 0.8)]) == [1, 2, 0]


def test_of_equal_points_the_first_stands_for_all():
    assert pareto_front([(1.0, 0.5), (1.0, 0.5)]) == [0]


def test_nothing_has_no_front():
    assert pareto_front([]) == []
