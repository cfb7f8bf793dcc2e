"""What is said of verbs and flags that there are not."""

import pytest

from tlora.cli import main


@pytest.mark.parametrize("arguments", [["paint"], ["infer", "--sedd", "3"], []])
def test_an_unknown_verb_or_flag_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("tlora")
    assert "--help" in said
