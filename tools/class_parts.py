"""A class told over several cells of a notebook, and the same class in one piece.

A cell holds `class Name:` with its docstring, its fields and usually `__init__`; functions
under `@add_to_class(Name)` follow, in that cell or in later ones. `read_definitions` finds the
parts in a notebook's cells, `assembled` puts them together as one syntax tree, and `rewrite`
writes the package's code into them: it keeps the parts where they are, adds what is missing,
removes what is gone, and splits a class that is too long for one cell.
"""

import ast
import copy
import io
import re
import tokenize
from dataclasses import dataclass, field
from inspect import cleandoc

from nbformat.v4 import new_code_cell

from distilclip.book.growing import CLASS_ONLY

LONGEST = 40  # lines of code in a cell, blank ones not counted
SHARED = 25  # neighbouring methods share a cell if they have fewer lines than this together
BETWEEN = "\n\n\n"
HAS_DOCSTRING = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Original:
    """A class or function of the package: its module, its own lines and its syntax tree."""

    module: str
    lines: list[str]
    node: ast.ClassDef | ast.FunctionDef

    @property
    def source(self) -> str:
        return "\n".join(self.lines)


@dataclass(eq=False)
class Part:
    """A class or function at the top level of a cell, in its lines from `first` to before `last`.

    `owner` names the class that a method is added to.
    """

    name: str
    node: ast.ClassDef | ast.FunctionDef
    cell: int
    first: int
    last: int
    owner: str | None = None


@dataclass
class Definition:
    """A class or function as a notebook tells it: the head, and a class's methods added later."""

    head: Part
    added: list[Part] = field(default_factory=list)


def originals(source: str, module: str) -> list[Original]:
    """Every public class and function at the top level of a module."""
    lines, found = source.split("\n"), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            first = first_line(node)
            found.append(Original(module, lines[first : node.end_lineno], node))
    return found


def python_of(cell) -> str:
    """A code cell's source with notebook magics as comments, so that it parses as Python."""
    return re.sub(r"^(\s*)[%!]", r"\1pass  # ", cell.source, flags=re.MULTILINE)


def read_definitions(cells) -> tuple[list[Definition], list[Part]]:
    """What a notebook defines in order, and the methods added to a class that it has not defined.

    A method belongs to the latest class of its owner's name before it.
    """
    definitions, strays = [], []
    for part in read_parts(cells):
        if part.owner is None:
            definitions.append(Definition(part))
            continue
        owners = [item for item in definitions if item.head.name == part.owner]
        if owners:
            owners[-1].added.append(part)
        else:
            strays.append(part)
    return definitions, strays


def read_parts(cells) -> list[Part]:
    """Every public class and function of a notebook's code cells, and every method added."""
    parts = []
    for number, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        source = python_of(cell)
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            first, owner = first_line(node), owner_of(node)
            if owner is not None:
                first = with_comments(source.split("\n"), first)
            elif node.name.startswith("_"):
                continue
            parts.append(Part(node.name, node, number, first, node.end_lineno, owner))
    return parts


def owner_of(node: ast.AST) -> str | None:
    """The class that a function's first decorator, `@add_to_class(Name)`, adds it to."""
    match node:
        case ast.FunctionDef(
            decorator_list=[ast.Call(func=ast.Name("add_to_class"), args=[ast.Name(name)]), *_]
        ):
            return name
    return None


def first_line(node: ast.AST) -> int:
    """Where a definition begins with its decorators, counted from 0."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1


def with_comments(lines: list[str], first: int) -> int:
    """Where the lines of comment begin that stand directly above line `first`."""
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return first


def assembled(definition: Definition) -> ast.AST:
    """The syntax tree of a definition in one piece, without the decorators that add methods."""
    whole = copy.deepcopy(definition.head.node)
    for part in definition.added:
        method = copy.deepcopy(part.node)
        method.decorator_list = method.decorator_list[1:]
        whole.body.append(method)
    return whole


def dump(node: ast.AST) -> str:
    """A syntax tree as text, docstrings without their indentation: equal where code is the same."""
    node = copy.deepcopy(node)
    for docstring in docstrings(node):
        docstring.value = cleandoc(docstring.value)
    return ast.dump(node)


def docstrings(node: ast.AST) -> list[ast.Constant]:
    return [
        part.body[0].value
        for part in ast.walk(node)
        if isinstance(part, HAS_DOCSTRING) and ast.get_docstring(part, clean=False) is not None
    ]


def rewrite(cells: list, definition: Definition, original: Original) -> None:
    """Write the package's code of one class or function into the cells that define it."""
    head, methods = cut(original, definition)
    if methods and not definition.added:
        part_from_what_follows(cells, definition.head)

    texts = {definition.head: head}  # the parts that stay, with their new text
    missing: dict[Part, list[str]] = {}  # by the part that they follow: methods in no cell yet
    previous = definition.head
    for name, text in methods:
        places = [part for part in definition.added if part.name == name]
        texts |= dict.fromkeys(places, text)
        if places:
            previous = places[-1]
        else:
            missing.setdefault(previous, []).append(text)

    new_cells: dict[int, list[str]] = {}
    for part, sources in missing.items():
        if any(other.cell == part.cell and other.first > part.first for other in texts):
            texts[part] = BETWEEN.join([texts[part], *sources])
        else:
            new_cells[part.cell] = share_cells(sources)

    parts = [definition.head, *definition.added]
    for part in sorted(parts, key=lambda part: -part.first):  # lines above keep their numbers
        lines = cells[part.cell].source.split("\n")
        lines[part.first : part.last] = texts.get(part, "").split("\n")
        cells[part.cell].source = "\n".join(lines).strip("\n")
    for number in sorted({part.cell for part in parts}, reverse=True):
        cells[number + 1 : number + 1] = [new_code_cell(s) for s in new_cells.get(number, [])]
        if not cells[number].source.strip():
            del cells[number]


def part_from_what_follows(cells: list, head: Part) -> None:
    """Before a class is split: the code after it, which may use it, becomes a cell of its own.

    That cell is the old one, with its outputs; the class moves to a new one before it.
    """
    lines = cells[head.cell].source.split("\n")
    follows = "\n".join(lines[head.last :]).strip("\n")
    if follows:
        cells[head.cell].source = follows
        cells.insert(head.cell, new_code_cell("\n".join(lines[: head.last])))


def cut(original: Original, definition: Definition) -> tuple[str, list[tuple[str, str]]]:
    """The package's text of a definition's head, and names and texts of the methods after it.

    A function, and a class that is short and in one cell, is all head. Otherwise the head
    holds what cannot be added later, and the methods that the notebook's head holds, as far
    as they follow each other in the package and fit the cell.
    """
    alone = not definition.added
    if isinstance(original.node, ast.FunctionDef) or (
        alone and count_lines(original.source) <= LONGEST
    ):
        return original.source, []
    body = original.node.body
    least = max((n for n, item in enumerate(body, 1) if stays_inside(item, body)), default=1)
    told = {item.name for item in definition.head.node.body if isinstance(item, ast.FunctionDef)}
    size = least
    while size < len(body) and body[size].name in told:
        size += 1
    if alone or count_lines(head_text(original, size)) > LONGEST:
        size = least
    methods = [(body[n].name, method_text(original, n)) for n in range(size, len(body))]
    return head_text(original, size), methods


def stays_inside(item: ast.AST, body: list[ast.AST]) -> bool:
    """Whether a member of a class must be in its head: a field, `__init__`, what uses `super()`.

    So must a method whose decorators, defaults or annotations name another member, which
    only the class's own body can see.
    """
    if not isinstance(item, ast.FunctionDef) or item.name in {"__init__", *CLASS_ONLY}:
        return True
    outside = names_in(*item.decorator_list, item.args, item.returns or item.args)
    return bool(outside & bound_in(body) or names_in(item) & {"super", "__class__"})


def names_in(*nodes: ast.AST) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def bound_in(body: list[ast.AST]) -> set[str]:
    """The names of a class's methods and fields."""
    names = {item.name for item in body if isinstance(item, ast.FunctionDef)}
    fields = [item for item in body if isinstance(item, ast.Assign | ast.AnnAssign)]
    parts = [part for item in fields for part in ast.walk(item) if isinstance(part, ast.Name)]
    return names | {part.id for part in parts if isinstance(part.ctx, ast.Store)}


def head_text(original: Original, size: int) -> str:
    """The source of a class up to member `size` of its body."""
    end = original.node.body[size - 1].end_lineno
    return "\n".join(original.lines[: end - first_line(original.node)])


def method_text(original: Original, number: int) -> str:
    """A method, and the comments above it, as the cell that adds it to its class has them."""
    method, start = original.node.body[number], first_line(original.node)
    before = original.node.body[number - 1].end_lineno - start
    first, last = first_line(method) - start, method.end_lineno - start
    comments = [line.strip() for line in original.lines[before:first] if line.strip()]
    decorator = f"@add_to_class({original.node.name})"
    return "\n".join([*comments, decorator, *dedented(original.lines[first:last], method)])


def dedented(lines: list[str], method: ast.FunctionDef) -> list[str]:
    """A method's lines four columns to the left, but for strings that are no docstrings."""
    start = first_line(method)
    starts_of_docstrings = {docstring.lineno - start for docstring in docstrings(method)}
    fixed = set()
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        is_text = tokenize.tok_name[token.type].endswith(("STRING", "STRING_MIDDLE"))
        if is_text and token.start[0] not in starts_of_docstrings:
            fixed.update(range(token.start[0], token.end[0]))
    return [
        line if number in fixed else line.removeprefix("    ") for number, line in enumerate(lines)
    ]


def count_lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.split("\n"))


def share_cells(sources: list[str]) -> list[str]:
    """The sources of new cells for these methods: short neighbours share one."""
    cells: list[str] = []
    for source in sources:
        if cells and count_lines(cells[-1] + "\n" + source) < SHARED:
            cells[-1] += BETWEEN + source
        else:
            cells.append(source)
    return cells
