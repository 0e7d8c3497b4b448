"""Mends in the finished pages what a screen reader or a spoken command would stumble over.

MyST-NB gives each folded cell an invisible name that differs from the visible one: who says "click
Show code cell source" is not understood. Docutils gives each entry of the bibliography a role
that ARIA has given up, so that a list seems to have no items. Sphinx sets the parameters of a long
signature as descriptions of nothing, and leaves a mark of its own on types beside a default that it
cannot read. The theme's arrows that unfold a part of the contents have no
name at all.
"""

import re

MENDED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    'role="doc-biblioentry"': 'role="listitem"',
}
PARAMETERS = re.compile(r"<dl>\n((?:<dd>.*?</dd>\n)+)</dl>", flags=re.DOTALL)
SHORTENED = re.compile(r'(?<=<span class="pre">)~(?:\w+\.)*(\w+)')


def mend(app, pagename, templatename, context, doctree):
    body = context.get("body") or ""
    for faulty, right in MENDED.items():
        body = body.replace(faulty, right)
    context["body"] = SHORTENED.sub(r"\1", PARAMETERS.sub(spans, body))
    if contents := context.get("generate_toctree_html"):
        context["generate_toctree_html"] = lambda *given, **named: name_arrows(
            contents(*given, **named)
        )


def spans(found: re.Match) -> str:
    """The parameters of a signature in elements that mean nothing."""
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{lines}</span>'


def name_arrows(contents):
    """The contents of a side bar (Beautiful Soup), in which each arrow says what it unfolds."""
    for arrow in contents.select("li > details > summary") if contents else ():
        link = arrow.find_parent("li").find("a")
        arrow["aria-label"] = f"Pages below {link.get_text()}"
    return contents


def setup(app):
    app.connect("html-page-context", mend, priority=900)  # after the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
