from tasks.register.mlflow_page import metrics_table

SURE = {"mean": 0.5, "low": 0.25, "high": 0.75}
NAMES = ("similarity_train", "similarity_held_out", "similarity_gain", "prompt_following")


def test_what_a_race_did_not_draw_is_said_in_its_cell():
    whole = dict.fromkeys(NAMES, SURE) | {"diversity_ratio": SURE}
    checkpoints = {
        "base": whole | {"step": 0},
        "checkpoint-000005": dict.fromkeys(NAMES, SURE) | {"step": 5},
        "checkpoint-000010": whole | {"step": 10, "lost_prompts": 1, "drift": SURE},
    }
    rows = metrics_table(checkpoints, "checkpoint-000010").splitlines()[2:]
    cell = "0.500 (0.250 to 0.750)"
    assert [row.strip("| ").split(" | ") for row in rows] == [
        ["base", *[cell] * 4, *["not drawn"] * 2, cell],
        ["checkpoint-000005", *[cell] * 4, *["not drawn"] * 3],
        ["**checkpoint-000010**", *[cell] * 4, "1", cell, cell],
    ]
