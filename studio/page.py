"""The page and its server: this machine alone, nothing from elsewhere, nothing told to anybody."""

import os
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.addresses import HOST
from studio import decide, draw, start, watch
from studio.uploads import LARGEST
from tlora.errors import SettingsError

LOGIN = "TLORA_STUDIO_LOGIN"  # name:password, or several with commas between
TITLE = "flux-tlora studio"
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's page needs both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'self'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

_CONTRAST = {  # what axe asks of text on its ground, in the light and in the dark
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_text_color": "white",
    "button_cancel_background_fill": "*secondary_700",
    "button_cancel_background_fill_hover": "*secondary_800",
    "button_cancel_background_fill_dark": "*secondary_700",
    "button_cancel_background_fill_hover_dark": "*secondary_800",
    "button_cancel_text_color": "white",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "block_label_text_color": "*neutral_700",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
}


def logins() -> list[tuple[str, str]] | None:
    """Return who may come in, by name and password; None for everybody on this machine.

    Raises:
        SettingsError: If the variable is not written as it should be.
    """
    given = os.environ.get(LOGIN, "")
    if not given:
        return None
    pairs = [tuple(each.split(":", 1)) for each in given.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise SettingsError(f"{LOGIN}: must be name:password, or several with commas between")
    return [(pair[0], pair[1]) for pair in pairs]


def make_page() -> gr.Blocks:
    """Return the page, with its tabs."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown("# Studio")
        for name, tab in (("Start", start), ("Watch", watch), ("Try", draw), ("Decide", decide)):
            with gr.Tab(name):
                tab.build(page)
    return page


def serve(port: int) -> None:
    """Serve the page until told to stop, and say where.

    Args:
        port: Where; 0 for any free one.
    """
    font = gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")
    mono = gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")
    page = make_page()
    page.queue(default_concurrency_limit=4, api_open=False)
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        auth=logins(),
        auth_message="The studio of this project",
        prevent_thread_lock=True,
        max_file_size=LARGEST,
        theme=gr.themes.Base(primary_hue="blue", font=font, font_mono=mono).set(**_CONTRAST),
        css_paths=Path(__file__).with_name("look.css"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(_Guarded)]},
    )
    print(f"studio: {address.rstrip('/')}\nCtrl-C ends it; what trains goes on.", flush=True)
    page.block_thread()


class _Guarded:
    """Tells the browser to load nothing from elsewhere, and to show the page in nobody's frame.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the headers added."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_guarded)
