"""The rules of the house: imports look down, notebooks are clean, the command answers at once."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb")) + sorted((ROOT / "reports" / "embedded").glob("*.ipynb"))
FLOORS = [
    {"compat", "files", "html"},
    {"outdir"},
    {"space", "modalities.base"},
    {"modalities.text", "modalities.image", "modalities.audio"},
    {"modalities.registry"},
    {"codecs.spec"},
    {"codecs.base"},
    {"metrics.base", "codecs.fsq"},
    {"metrics.audio", "metrics.image", "metrics.codebooks"},
    {"metrics.registry"},
    {"codecs.text", "codecs.image", "codecs.audio", "codecs.checkpoint"},
    {"codecs.hf_text", "codecs.hf_image", "codecs.hf_audio", "codecs.unclip", "codecs.seed2_network"},
    {"codecs.seed2"},
    {"config", "sequences", "pages.plots", "pages.media"},
    {"grammar", "environment"},
    {"tokenizer"},
    {"checks.base", "export"},
    {"checks.case"},
    {"checks.encoding", "checks.decoding", "checks.rejection", "checks.space", "dataset", "lm", "smoke_report"},
    {"checks.registry"},
    {"training", "generation", "references"},
    {"testing", "audit.record", "comparison"},
    {"audit.earlier", "audit.samples"},
    {"audit.baseline"},
    {"audit.plan"},
    {"audit.artifacts", "audit.steps"},
    {"audit.run"},
    {"compare", "endurance"},
    {"smoke"},
    {"pages.audit", "pages.smoke", "pages.compare"},
    {"report"},
    {"console"},
    {"cli_lm"},
    {"cli"},
    {"__main__", "audit.__main__"},
]


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
            found |= {f"{node.module}.{alias.name}".removeprefix("uti.") for alias in node.names} if node.module == "uti" else {node.module.removeprefix("uti.")}
    return found


def test_imports_look_down():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    for path in (ROOT / "uti").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT / "uti").with_suffix("").parts)
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        above = {other for other in imports(path) if floor[other] >= floor[name]}
        assert not above, f"{name} imports {above}"


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


@pytest.mark.parametrize("statement", ["import uti", "import uti.cli", "import uti.codecs.base", "import uti.space", "import uti.config"])
def test_torch_is_imported_late(statement):
    code = f"import sys; {statement}; assert not [m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.run
def test_the_library_does_not_need_nbdev():
    code = "import sys; sys.modules.update(nbdev=None, fastcore=None, execnb=None); import uti.cli, uti.report, uti.testing, uti.codecs.text, uti.codecs.image, uti.codecs.audio, uti.codecs.hf_text, uti.codecs.hf_image, uti.codecs.hf_audio, uti.codecs.seed2, uti.compare, uti.export"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_command():
    run = subprocess.run([sys.executable, "-c", "from uti.cli import main; main()", "--help"], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"})
    assert run.returncode == 0
    for command in ("audit", "report", "compare", "render", "codecs", "space", "smoke", "dataset", "train", "export"):
        assert re.search(rf"\b{command}\b", run.stdout)


def test_the_published_example_passed():
    from uti.audit.earlier import read_record

    report = read_record(ROOT / "reports" / "embedded" / "report.json")
    assert report.passed and (ROOT / "reports" / "embedded" / "index.html").exists()
