"""Leave out the scripts of sphinx-thebe, which this book does not use.

Jupyter Book loads that extension always; it declares one constant twice on every page, which
the browser reports as an error, and points to a server outside the book.
"""


def drop_thebe(app, pagename, templatename, context, doctree):
    def belongs_to_thebe(script) -> bool:
        body = getattr(script, "attributes", {}).get("body") or ""
        return "thebe" in f"{getattr(script, 'filename', '')} {body}".lower()

    context["script_files"] = [s for s in context["script_files"] if not belongs_to_thebe(s)]


def setup(app):
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
