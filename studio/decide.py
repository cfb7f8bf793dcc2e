"""The tab *Decide*: champion and challenger side by side without names, votes, and then promotion or a way back.

Pairs are drawn anew, at seeds that no evaluation has used: what chose the checkpoint does not vote too. Which side is whose stays
in this process, and pictures come to the page without what they say of themselves.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from PIL import Image

from studio import models
from studio.commands import option, run_command
from studio.words import attempt, escape, picture, status, table
from tasks.registry.names import PARAMS, registered_name_here
from tasks.registry.promotion import judge
from tasks.registry.verdict import PromoteSettings
from tasks.registry.versions import aliases_of, versions_of
from tasks.registry.votes import Said, Vote, cast, close_round, open_pair, read_round
from tasks.running.cli import read_section
from tasks.running.state_folder import state_folder
from tasks.tracking.store import explained_failures, open_store
from tlora.drawing.warm import Wanted
from tlora.errors import PictureError
from tlora.metadata.concept import read_concept
from tlora.runtime.settings import parse_settings
from tlora.trust.settings import TrustSettings

LEFT, RIGHT = "left is better", "right is better"
OTHERS: dict[str, Said] = {"no difference": "no difference", "both bad": "both bad"}
SEEDS = 2**31
LONGEST_NAME, LONGEST_REASON = 200, 1000  # characters


@dataclass(frozen=True)
class Pair:
    """Two pictures that somebody looks at.

    Args:
        challenger: Number of the version.
        champion: Number of the version.
        prompt: What both show.
        seed: Of both.
        left: Whose the left one is.
    """

    challenger: str
    champion: str
    prompt: str
    seed: int
    left: Said


def build(page: gr.Blocks) -> None:
    """Lay the tab out."""
    who = gr.Textbox(label="Your name, for the record", max_length=LONGEST_NAME)
    gr.Markdown("## Blind votes")
    pair = gr.State(None)
    show = gr.Button("Show two pictures", variant="primary")
    seen = gr.HTML(status(""))
    with gr.Row():
        votes = [gr.Button(words, interactive=False) for words in (LEFT, RIGHT, *OTHERS)]
    with gr.Row():
        close = gr.Button("Close the round, and say what came of it")
        stand = gr.Button("How many votes?")
    gr.Markdown("## Promote, approve, roll back")
    why = gr.Textbox(label="Reason, for the record", max_length=LONGEST_REASON)
    with gr.Row():
        judged = gr.Button("What does the gate say?")
        promote = gr.Button("Promote the challenger, as approved by me", variant="primary")
        rollback = gr.Button("Roll back to the version before", variant="stop")
    decided = gr.HTML(status(""))
    page.load(_user, None, who)
    page.load(_versions, None, decided)
    show.click(_show, None, [pair, seen, *votes], concurrency_id="drawing")
    for button in votes:
        button.click(_vote, [button, pair, who], [pair, seen, *votes])
    close.click(_close, [who], seen)
    stand.click(lambda: attempt(_stand), None, seen)
    judged.click(lambda: attempt(_judge), None, decided)
    promote.click(_promote, [who, why], decided)
    rollback.click(_rollback, [who, why], decided)


def _user(request: gr.Request) -> str:
    return request.username or ""


def _name(given: str, request: gr.Request) -> str:
    """Return who it is: whoever signed in, or what was written where nobody has to.

    Raises:
        PictureError: If nothing was.
    """
    name = request.username or given.strip()
    if not name:
        raise PictureError("write your name first, for the record")
    return name


def _buttons(*, open: bool) -> list[gr.Button]:  # noqa: A002
    return [gr.Button(interactive=open) for _ in range(2 + len(OTHERS))]


def _show() -> tuple[object, ...]:
    found: list[Pair] = []

    def action() -> str:
        pair, shown = _draw_pair()
        found.append(pair)
        return shown

    shown = attempt(action)
    return (found[0] if found else None, shown, *_buttons(open=bool(found)))


def _draw_pair() -> tuple[Pair, str]:
    trust = parse_settings(TrustSettings, read_section(PARAMS, "trust"), f"{PARAMS}: trust")
    with explained_failures():
        store = open_store()
        challenger, champion = open_pair(store, registered_name_here())
        if read_round(store, challenger, champion).closed_by:
            raise PictureError("the round is closed: what it came to is told below 'How many votes?'")
        adapters = {
            said: models.version_adapter(store, each, trust)
            for said, each in (("challenger", challenger), ("champion", champion))
        }
    prompts = read_concept(Path("concept.yaml")).prompts
    left: Said = secrets.choice(("challenger", "champion"))
    pair = Pair(str(challenger.version), str(champion.version), secrets.choice(prompts), secrets.randbelow(SEEDS), left)
    right = "champion" if left == "challenger" else "challenger"
    sides = [(words, _drawn(adapters[whose], pair)) for words, whose in (("left", left), ("right", right))]
    figures = "".join(f"<figure>{picture(image, words)}<figcaption>{words}</figcaption></figure>" for words, image in sides)
    return pair, f'<p>{escape(pair.prompt)}</p><div class="row two">{figures}</div>'


def _drawn(adapter: Path, pair: Pair) -> Image.Image:
    file = state_folder("studio") / "pair.png"
    wanted = Wanted(adapter, 1.0, pair.prompt, pair.seed, models.usual_sample())
    return models.warm_base().draw(wanted, file, gr.Info).picture


def _vote(words: str, pair: Pair | None, given: str, request: gr.Request) -> tuple[object, ...]:
    kept: list[Pair] = [pair] if pair else []

    def action() -> str:
        if pair is None:
            raise PictureError("look at two pictures first")
        vote = Vote(_name(given, request), pair.prompt, pair.seed, _meant(words, pair))
        with explained_failures():
            store = open_store()
            challenger, champion = open_pair(store, registered_name_here())
            if (str(challenger.version), str(champion.version)) != (pair.challenger, pair.champion):
                kept.clear()
                raise PictureError(
                    "champion or challenger have changed since these were drawn: the vote is not counted; look at two others"
                )
            cast(store, challenger, champion, vote)
            kept.clear()
            return status(["your vote is kept", read_round(store, challenger, champion).tally()])

    shown = attempt(action)
    return (kept[0] if kept else None, shown, *_buttons(open=bool(kept)))


def _meant(words: str, pair: Pair) -> Said:
    if words in OTHERS:
        return OTHERS[words]
    if words not in (LEFT, RIGHT):
        raise PictureError(f"{words!r} is no vote")
    right: Said = "champion" if pair.left == "challenger" else "challenger"
    return pair.left if words == LEFT else right


def _stand(close_as: str = "") -> str:
    with explained_failures():
        store = open_store()
        challenger, champion = open_pair(store, registered_name_here())
        held = close_round(store, challenger, champion, close_as) if close_as else read_round(store, challenger, champion)
    return status(f"version {held.challenger} against champion {held.champion}: {held.tally()}")


def _close(given: str, request: gr.Request) -> str:
    return attempt(lambda: _stand(_name(given, request)))


def _judge() -> str:
    settings = parse_settings(PromoteSettings, read_section(PARAMS, "promote"), f"{PARAMS}: promote")
    trust = parse_settings(TrustSettings, read_section(PARAMS, "trust"), f"{PARAMS}: trust")
    with explained_failures():
        verdict = judge(open_store(), registered_name_here(), settings, trust=trust)
    rows = [[escape(c.metric), escape(c.shown), escape(c.needed), "passed" if c.passed else "failed"] for c in verdict.checks]
    said = verdict.objection or "nothing speaks against the challenger"
    return status([said, verdict.remedy], wrong=bool(verdict.objection)) + table(["metric", "challenger", "needed", ""], rows)


def _promote(given: str, why: str, request: gr.Request) -> str:
    def action() -> str:
        name = _name(given, request)
        return status(run_command("flows.promote", *option("approved-by", name), *option("why", why))[-1]) + _versions()

    return attempt(action)


def _rollback(given: str, why: str, request: gr.Request) -> str:
    def action() -> str:
        name = _name(given, request)
        return status(run_command("flows.promote", "--rollback", *option("by", name), *option("why", why))[-1]) + _versions()

    return attempt(action)


def _versions() -> str:
    """Return the versions there are, with what was decided of them last."""

    def action() -> str:
        with explained_failures():
            store, model = open_store(), registered_name_here()
            found = versions_of(store, model)
            aliases = aliases_of(store, model) if found else {}
        called = {number: ", ".join(alias for alias in aliases if aliases[alias] == number) for number in aliases.values()}
        rows = [
            [
                escape(each.version),
                escape(called.get(str(each.version), "")),
                escape(each.tags.get("promotion.event", "")),
                escape(each.tags.get("promotion.by", "")),
                escape(each.tags.get("promotion.why", "")),
            ]
            for each in found
        ]
        return table(["version", "called", "decided", "by", "why"], rows) or status("no version is registered yet")

    return attempt(action)
