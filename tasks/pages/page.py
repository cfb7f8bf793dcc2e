"""Fills the template of a page. Names, prompts and captions are other people's text: autoescape shows all of them as text."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.pages.axis import show, show_exactly

_TASKS = Path(__file__).parents[1]


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Return a whole page.

    Args:
        template: File below `tasks/` that extends `pages/frame.html`.
        values: What it shows.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(_TASKS)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"short": show, "exactly": show_exactly, "capitalize_first": lambda text: text[:1].upper() + text[1:]}
    return environment
