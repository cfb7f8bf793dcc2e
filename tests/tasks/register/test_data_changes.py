from tasks.register.data_changes import DataChanges, Recaptioned, compare_splits
from tlora.pictures.manifest import PictureItem, Split, build_manifest


def _split(train: dict[str, tuple[str, str]], held_out: dict[str, tuple[str, str]]) -> Split:
    sides = (build_manifest([PictureItem(n, sha, 64, 48, text) for n, (sha, text) in side.items()]) for side in (train, held_out))
    return Split(*sides)


BEFORE = _split({"a.png": ("1", "a wall"), "b.png": ("2", "a floor"), "c.png": ("3", "a cube")}, {"d.png": ("4", "a ball")})


def test_the_same_data_has_no_changes_and_that_is_falsy() -> None:
    assert compare_splits(BEFORE, BEFORE) == DataChanges()
    assert not compare_splits(BEFORE, BEFORE)


def test_every_kind_of_change_is_told_from_the_others() -> None:
    after = _split(
        {"a.png": ("9", "a wall"), "z.png": ("2", "a brick floor"), "d.png": ("4", "a ball"), "new.png": ("7", "new")},
        {},
    )
    assert compare_splits(BEFORE, after) == DataChanges(
        added=("new.png",),
        removed=("c.png",),
        replaced=("a.png",),
        renamed=(("b.png", "z.png"),),
        recaptioned=(Recaptioned("z.png", "a floor", "a brick floor"),),
        now_trained=("d.png",),
    )
    back = compare_splits(after, BEFORE)
    assert (back.added, back.removed, back.renamed, back.now_held_out) == (
        ("c.png",),
        ("new.png",),
        (("z.png", "b.png"),),
        ("d.png",),
    )


def test_copies_of_one_file_are_paired_once() -> None:
    before = _split({"a.png": ("1", ""), "b.png": ("1", "")}, {})
    after = _split({"c.png": ("1", "")}, {})
    assert compare_splits(before, after) == DataChanges(removed=("b.png",), renamed=(("a.png", "c.png"),))
    assert compare_splits(after, before) == DataChanges(added=("b.png",), renamed=(("c.png", "a.png"),))


def test_a_new_loss_mask_is_a_change_of_its_own() -> None:
    plain, masked = (build_manifest([PictureItem("a.png", "1", 64, 48, "a wall", mask)]) for mask in ("", "5a"))
    nothing = build_manifest([])
    assert compare_splits(Split(plain, nothing), Split(masked, nothing)) == DataChanges(remasked=("a.png",))
