"""Pictures side by side: a strip for each prompt, a column for each way of drawing it. `parts.html` draws them.

The first column is what the others are compared with: it stays in sight while the strip scrolls, and stands beside whatever is
enlarged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gallery:
    """What is shown.

    Args:
        name: Tells galleries of one page apart: letters, digits and hyphens.
        columns: Column -> for each prompt, a picture per seed; None where it was not drawn.
        labels: Column -> what stands below it; else its name does.
        prompts: One per row.
        seeds: One per picture of a row.
        uris: Where each picture is.
        exact: Whether pictures are shown pixel by pixel, unsmoothed, because they are tiny.
        chosen: The column that is marked.
    """

    name: str
    columns: Mapping[str, Sequence[Sequence[Path | None]]]
    labels: Mapping[str, str]
    prompts: Sequence[str]
    seeds: Sequence[int]
    uris: Mapping[Path, str]
    exact: bool
    chosen: str | None = None
