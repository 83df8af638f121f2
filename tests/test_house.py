"""The rules of the house: imports look down, notebooks are clean, the command answers at once."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from forked import forked, run_code, run_command

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb")) + sorted((ROOT / "reports" / "embedded").glob("*.ipynb"))
# room → floor. A module may import its own room, the ground and lower floors: never upward, and never
# sideways into another room of its floor.
GROUND = {"compat", "errors", "files", "html", "outdir", "space"}
ROOMS = {
    "ground": 0,
    "modalities": 1,
    "metrics": 1,
    "config": 2,
    "codecs": 2,
    "tokens": 3,
    "zoo": 3,
    "checks": 4,
    "audit": 5,
    "comparison": 6,
    "lm": 6,
    "pages": 7,
    "publish": 8,
    "roundtrip": 8,
    "testing": 8,
    "cli": 9,
    "__main__": 10,
}


def imports(path: Path) -> set[str]:
    "Modules of ours that `path` imports, anywhere in it."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = list(path.relative_to(ROOT / "uti").parent.parts)
            package = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*package, name]) for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uti"):
            found |= (
                {f"{node.module}.{alias.name}".removeprefix("uti.") for alias in node.names}
                if node.module == "uti"
                else {node.module.removeprefix("uti.")}
            )
    return found


MODULES = {
    ".".join(p.relative_to(ROOT / "uti").with_suffix("").parts): p
    for p in sorted((ROOT / "uti").rglob("*.py"))
    if p.name not in ("__init__.py", "_modidx.py")
}


def room_of(module: str) -> str:
    if module.endswith("__main__"):
        return "__main__"
    first = module.split(".")[0]
    return "ground" if first in GROUND else first


def reading_order(module: str) -> tuple[str, ...]:
    "The notebook that `module` is exported from, as a path: in a room the numbers say what is read first."
    source = re.search(r"File to edit: (?:\.\./)+nbs/(\S+)\.ipynb", MODULES[module].read_text())[1]
    return tuple(source.split("/"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_look_down(module):
    """By rooms, so that a new module costs no line here.

    Inside a room a notebook stands on those that are read before it, which leaves no circle.
    """
    room = room_of(module)
    for other in imports(MODULES[module]) & set(MODULES):
        there = room_of(other)
        if there == room:
            assert reading_order(other) < reading_order(module), (
                f"{module} imports {other}, which is read later"
            )
        else:
            assert ROOMS[there] < ROOMS[room] or there == "ground", (
                f"{module} imports {other}: upward or sideways"
            )


@pytest.mark.parametrize("module", MODULES)
def test_what_a_room_may_not_know(module):
    """Nobody imports a command, a door, or the front door, or a family of codecs, which come by entry points;
    pages see records and never a codec; metrics and modalities know no codec; a codec never sees an id.
    """
    room, found = room_of(module), imports(MODULES[module])
    rooms = {room_of(other) for other in found & set(MODULES)}
    doors = {
        other
        for other in found
        if other.endswith("__main__") or (room_of(other) == "cli" and room not in ("cli", "__main__"))
    }
    assert not doors and not re.search(
        r"^\s*(import uti$|from uti import)", MODULES[module].read_text(), flags=re.M
    )
    assert not (room == "pages" and "codecs" in rooms) and not (room == "codecs" and "tokens" in rooms)
    assert room == "zoo" or "zoo" not in rooms


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_notebooks_are_clean(path):
    text = path.read_text()
    assert not re.search(r"/(home|root|tmp|work|Users|var/folders)/\w", text), "a path of some machine"
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    code = [c for c in notebook.cells if c.cell_type == "code"]
    if "reports" not in path.parts and path.name != "index.ipynb":
        assert "\n> " in notebook.cells[0].source
        assert sum(len(str(c.outputs)) for c in code) < 200_000
        assert any(c.execution_count or c.outputs for c in code), "not executed"
    assert not [c for c in code for o in c.outputs if o.output_type == "error"]


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "reports").glob("*.ipynb")), ids=lambda p: p.name)
def test_report_notebooks_show_data_as_text(path):
    "What they display goes through `uti.html.show`, which escapes all that is not made by `uti.html`."
    source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    assert "show(" in source and not re.search(r"\b(HTML|Markdown|display)\(|__html__", source)
    assert not re.findall(r"Markup\(f|Markup\([^\"']", source)


@pytest.mark.parametrize(
    "statement",
    [
        "import uti",
        "import uti.space",
        "import uti.config",
        "from uti.cli.main import codecs; codecs()",
        "from uti.codecs.base import codec_spec; codec_spec('embedded-audio', n_codebooks=2)",
    ],
)
def test_torch_is_imported_late(statement):
    code = (
        f"import sys; {statement}; assert not [m for m in ('torch', 'transformers', 'matplotlib') if m in "
        "sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_front_door_has_what_it_says():
    import uti

    stub = (ROOT / "uti" / "__init__.pyi").read_text()
    assert uti.__all__ == sorted(uti.__all__) == dir(uti) and all(
        getattr(uti, name).__doc__ for name in uti.__all__
    )
    assert (
        set(re.findall(r'^    "(\w+)",$', stub, flags=re.M))
        == set(re.findall(r" as (\w+)$", stub, flags=re.M))
        == set(uti.__all__)
    )
    assert not hasattr(uti, "Tokeniser")


@pytest.mark.slow  # imports everything in a process of its own
def test_the_library_does_not_need_nbdev():
    code = (
        "import sys; sys.modules.update(nbdev=None, fastcore=None, execnb=None); import uti.cli.main, "
        "uti.publish, uti.testing, uti.codecs.embedded.text, uti.codecs.embedded.image, "
        "uti.codecs.embedded.audio, uti.zoo.hf.text, uti.zoo.hf.image, uti.zoo.hf.audio, "
        "uti.zoo.seed2.codec, uti.comparison.run, uti.tokens.export"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_command():
    run = forked(run_command, "--help", environment={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"})
    assert run.returncode == 0
    for command in (
        "audit",
        "report",
        "compare",
        "render",
        "codecs",
        "space",
        "smoke",
        "dataset",
        "train",
        "export",
    ):
        assert re.search(rf"\b{command}\b", run.stdout)


def test_the_published_example_passed():
    from uti.audit.earlier import read_record

    assert read_record(ROOT / "reports" / "embedded" / "report.json").passed


def test_the_readme_lists_every_check_and_metric():
    "In a process of its own: those of other tests are not among them."
    code = """
import sys
from uti.checks.base import CHECKS
import uti.checks.registry
from uti.metrics.registry import METRICS
readme = open(sys.argv[1], encoding="utf-8").read()
asked = [check for check in CHECKS.values() if "baseline" not in check.of]  # which it tells of elsewhere
print([check.name for check in asked if check.sentence not in readme])
print([metric.name for metric in METRICS.values() if metric.title not in readme])
"""
    run = forked(run_code, code, str(ROOT / "README.md"))
    assert (run.returncode, run.stdout) == (0, "[]\n[]\n"), run.stderr
