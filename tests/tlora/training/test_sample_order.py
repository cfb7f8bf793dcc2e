"""Which views a step sees depends on the seed and the step alone, and no view is favoured."""

from collections import Counter

from tlora.training.sample_order import SamplePlan

SQUARE, WIDE = (8, 8), (6, 10)


def test_every_view_comes_once_before_any_comes_twice() -> None:
    plan = SamplePlan([SQUARE] * 7, samples_per_step=3, steps=14, seed=0)
    seen = [view for step in range(14) for view in plan.indices(step)]
    for epoch in range(6):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_a_step_is_a_function_of_seed_and_step_and_not_of_the_length_of_the_run() -> None:
    shapes = [SQUARE, WIDE, WIDE, SQUARE, WIDE]
    short, long = (SamplePlan(shapes, 4, steps, seed=3) for steps in (20, 200))
    assert [short.indices(step) for step in range(20)] == [long.indices(step) for step in reversed(range(20))][::-1]
    assert [SamplePlan(shapes, 4, 20, seed=4).indices(step) for step in range(20)] != [short.indices(step) for step in range(20)]


def test_the_samples_of_a_step_have_one_size_and_sizes_come_as_often_as_they_have_views() -> None:
    shapes = [SQUARE, WIDE, WIDE, WIDE]
    plan = SamplePlan(shapes, samples_per_step=2, steps=2000, seed=0)
    sizes = [{shapes[view] for view in plan.indices(step)} for step in range(2000)]
    assert all(len(size) == 1 for size in sizes)
    assert 0.71 < sum(size == {WIDE} for size in sizes) / 2000 < 0.79


def test_views_of_each_size_come_equally_often() -> None:
    plan = SamplePlan([SQUARE, WIDE, WIDE, WIDE, SQUARE], samples_per_step=2, steps=900, seed=1)
    counts = Counter(view for step in range(900) for view in plan.indices(step))
    for views in ((0, 4), (1, 2, 3)):
        assert max(counts[v] for v in views) - min(counts[v] for v in views) <= 1


def test_a_single_view_is_enough_for_any_batch() -> None:
    assert SamplePlan([SQUARE], samples_per_step=4, steps=1, seed=0).indices(0) == [0, 0, 0, 0]


def test_prior_pictures_have_their_share_of_the_samples_and_the_views_come_in_the_order_that_they_had() -> None:
    shapes, prior, share = [SQUARE, WIDE, WIDE], [SQUARE, WIDE, SQUARE], 0.3
    mixed = SamplePlan(shapes, 4, 200, seed=3, prior=prior, prior_share=share)
    seen = [mixed.indices(step) for step in range(200)]
    for until in (5, 50, 200):
        assert sum(view >= 3 for step in seen[:until] for view in step) == int(4 * until * share)
    every = [*shapes, *prior]
    assert all(len({every[view] for view in step}) == 1 for step in seen)
    counts = Counter(view for step in seen for view in step)
    assert abs(counts[3] - counts[5]) <= 1
    plain = SamplePlan(shapes, 4, 200, seed=3)
    for size in (SQUARE, WIDE):
        own = [view for step in seen for view in step if view < 3 and shapes[view] == size]
        assert own == [view for step in range(200) for view in plain.indices(step) if shapes[view] == size][: len(own)]
    assert SamplePlan(shapes, 4, 200, 3, prior, share).indices(150) == seen[150]  # whatever was trained on before
    assert [SamplePlan(shapes, 4, 200, 4, prior, share).indices(step) for step in range(200)] != seen
