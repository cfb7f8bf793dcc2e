from benchmarks.measure import ratio, take_turns


def test_contenders_take_turns_and_the_warm_up_does_not_count():
    calls: list[str] = []
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_the_ratio_is_the_median_over_rounds():
    assert ratio({"ours": [2.0, 3.0, 40.0], "floor": [1.0, 2.0, 4.0]}, "ours", "floor") == 2.0
