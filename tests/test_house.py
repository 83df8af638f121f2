"""The rules of the house: imports look down, notebooks are clean, the command answers at once."""

import ast
import json
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
    "shards": 6,
    "comparison": 6,
    "lm": 7,
    "pages": 8,
    "publish": 9,
    "roundtrip": 9,
    "testing": 9,
    "cli": 10,
    "__main__": 11,
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
        "verify",
        "card",
        "site",
        "tokenize",
    ):
        assert re.search(rf"\b{command}\b", run.stdout)


def test_the_published_example_passed():
    from uti.audit.report_json import read_record

    assert read_record(ROOT / "reports" / "embedded" / "report.json").passed


def test_every_metric_and_every_check_is_listed():
    "In a process of its own: those of other tests are not among them."
    code = """
import sys
import uti.checks.registry
from uti.checks.base import CHECKS
from uti.metrics.registry import METRICS
readme, guide = (open(name, encoding="utf-8").read() for name in sys.argv[1:])
print([check.name for check in CHECKS.values() if check.sentence not in guide])
print([metric.name for metric in METRICS.values() if metric.title not in readme])
print(f"[{len(CHECKS)} questions]" in readme)
"""
    guide = ROOT / "nbs" / "guides" / "04_report_json_and_exit_codes.ipynb"
    run = forked(run_code, code, str(ROOT / "README.md"), str(guide))
    assert (run.returncode, run.stdout) == (0, "[]\n[]\nTrue\n"), run.stderr


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_one_page():
    assert 60 <= README.count("\n") <= 110
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert len(links) > 10 and not [link for link in links if not (ROOT / link).exists()]


def test_the_commands_of_readme_and_guides_are_commands():
    from typer.main import get_command

    from uti.cli.main import app

    guides = [nbformat.read(path, as_version=4) for path in (ROOT / "nbs" / "guides").glob("*.ipynb")]
    texts = [README, *(cell.source for guide in guides for cell in guide.cells)]
    lines = [found for text in texts for found in re.findall(r"\buti (\w+)((?: [^\s`#&\\\"]+)+)", text)]
    commands, known = get_command(app).commands, 0
    for name, rest in lines:
        if name in commands:
            known += 1
            options = {option for one in commands[name].params for option in (*one.opts, *one.secondary_opts)}
            assert {word for word in rest.split() if word.startswith("--")} <= options, (name, rest)
    assert known > 15


@pytest.mark.slow  # whole audits
def test_the_readme_shows_what_the_commands_print(uti_in, tmp_path):
    blocks = re.findall(r"```console\n\$ (.+)\n([\s\S]+?)\n```", README)
    assert len(blocks) == 2
    for command, printed in blocks:
        arguments, _, last = command.replace("OUT", str(tmp_path)).partition(" | tail -")
        run = uti_in(tmp_path, *arguments.split()[1:])
        lines = run.stdout.replace(str(tmp_path), "OUT").rstrip().splitlines()
        assert "\n".join(line.rstrip() for line in lines[-int(last or 0) :]) == printed
        if not last:
            better = json.loads((tmp_path / "mine" / "report.json").read_text())
            better["metrics_v2"]["audio_snr_db"] += 2
            for item in better["items"]:
                item["metrics"]["audio_snr_db"]["value"] += 2
            (tmp_path / "then.json").write_text(json.dumps(better))
    assert run.returncode == 1
