from compressor.report.chart_parts import Box, place_label

PLOT = Box(0, 0, 400, 300)


def test_two_boxes_share_the_area_of_their_intersection():
    assert Box(0, 0, 10, 10).overlap(Box(6, 7, 20, 20)) == 12  # 4 wide, 3 high


def test_boxes_that_only_touch_share_nothing():
    assert Box(0, 0, 10, 10).overlap(Box(10, 0, 20, 10)) == 0


def test_a_label_stands_to_the_right_when_there_is_room():
    label, _ = place_label("final", 100, 100, 12, taken=[], plot=PLOT)
    assert (label.x, label.y, label.anchor) == (112, 100, "start")


def test_a_label_that_would_leave_the_plot_stands_to_the_left():
    label, _ = place_label("final", 390, 100, 12, taken=[], plot=PLOT)
    assert (label.x, label.y, label.anchor) == (378, 100, "end")


def test_a_label_avoids_what_is_taken():
    taken = [Box(100, 80, 300, 120)]
    _, box = place_label("final", 100, 100, 12, taken=taken, plot=PLOT)
    assert box.overlap(taken[0]) == 0
