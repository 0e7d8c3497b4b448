"""Mends in the finished pages what a screen reader or a spoken command would stumble over.

MyST-NB gives each folded cell an invisible name that differs from the visible one: who says "click
Show code cell source" is not understood. Docutils gives each entry of the bibliography a role
that ARIA has given up, so that a list seems to have no items.
"""

MENDED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    'role="doc-biblioentry"': 'role="listitem"',
}


def mend(app, pagename, templatename, context, doctree):
    for faulty, right in MENDED.items():
        context["body"] = (context.get("body") or "").replace(faulty, right)


def setup(app):
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
