from tasks.register.data_changes import DataChanges, Recaptioned
from tasks.register.data_changes_words import SinceChampion, code, say_since, since_to_markdown


def test_what_is_not_known_is_said() -> None:
    assert say_since(SinceChampion(None, None)) == "no champion yet to compare the data with"
    assert say_since(SinceChampion("3", None)).endswith("is not known: its run keeps no manifest")
    assert say_since(SinceChampion("3", DataChanges())) == "since the data of the champion (version 3): nothing changed"


def test_the_page_lists_every_change_and_shortens_long_lists() -> None:
    changes = DataChanges(
        added=tuple(f"{n}.png" for n in range(60)),
        renamed=(("a.png", "b.png"),),
        recaptioned=(Recaptioned("b.png", "", "<b>`x`</b>"),),
        now_trained=("d.png",),
    )
    page = since_to_markdown(SinceChampion("3", changes))
    assert page.startswith(
        "# Data\n\nSince the data of the champion (version 3): 60 pictures added, 1 picture renamed, 1 caption changed,"
        " 1 picture trained on that was held out.\n\n## Added\n\n- `0.png`\n"
    )
    assert "- `49.png`\n- and 10 more\n" in page
    assert "- `a.png` is now `b.png`\n" in page
    assert "- `b.png`: (empty) is now `` <b>`x`</b> ``\n" in page
    assert page.endswith("## Trained on now, held out before\n\n- `d.png`\n")


def test_other_peoples_text_cannot_end_its_code_marks() -> None:
    assert code("a\nb") == "`a b`"
    assert code("``x`") == "``` ``x` ```"
