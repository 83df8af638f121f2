"""Is everything that is generated what the notebooks generate?

`--write-readme` writes the generated copies instead of comparing.
"""

import configparser
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": ["remove_input"]})


def readme() -> str:
    "README.md: nbs/index.ipynb as Markdown; of a cell with `#| echo: false`, its output alone."
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.source.startswith("#| echo: false"):
            cell.metadata["tags"] = ["remove_input"]
    notebook.metadata["language_info"] = {"name": "python"}  # what a code fence says
    body, _ = MarkdownExporter(exclude_output_prompt=True, config=HIDDEN).from_notebook_node(notebook)
    lines = "\n".join(line.rstrip() for line in body.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines) + "\n"


def exported(folder: Path) -> Path:
    "uti/ as the notebooks export it, made in `folder`."
    for name in ("nbs", "settings.ini"):
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    (folder / "uti").mkdir()
    shutil.copy(ROOT / "uti" / "__init__.py", folder / "uti")
    subprocess.run([str(Path(sys.executable).parent / "nbdev_export")], cwd=folder, check=True)
    return folder / "uti"


def drift() -> list[str]:
    "What differs from what the notebooks generate, a sentence each."
    with tempfile.TemporaryDirectory() as folder:
        fresh = exported(Path(folder))
        here = {
            p.relative_to(ROOT / "uti"): p
            for p in (ROOT / "uti").rglob("*.py")
            if "__pycache__" not in p.parts
        }
        there = {p.relative_to(fresh): p for p in fresh.rglob("*.py")}
        wrong = [
            f"uti/{p} differs from its notebook"
            for p in sorted(here.keys() | there.keys())
            if p not in here or p not in there or here[p].read_text() != there[p].read_text()
        ]
    if (ROOT / "README.md").read_text(encoding="utf-8") != readme():
        wrong.append("README.md differs from nbs/index.ipynb")
    for notebook in sorted((ROOT / "nbs" / "reports").glob("*.ipynb")):
        shipped = ROOT / "uti" / "reports" / notebook.name
        if not shipped.exists() or shipped.read_text() != notebook.read_text():
            wrong.append(f"uti/reports/{notebook.name} differs from nbs/reports/{notebook.name}")
    settings = configparser.ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini")
    if f'__version__ = "{settings["DEFAULT"]["version"]}"' not in (ROOT / "uti" / "__init__.py").read_text():
        wrong.append("uti/__init__.py has another version than settings.ini")
    return wrong


def write() -> None:
    "Write README.md, and the report notebooks that the package ships."
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
    for notebook in (ROOT / "nbs" / "reports").glob("*.ipynb"):
        shutil.copyfile(notebook, ROOT / "uti" / "reports" / notebook.name)


if __name__ == "__main__":
    if "--write-readme" in sys.argv:
        write()
    for sentence in (found := drift()):
        print(f"out of sync: {sentence}; run `make export`", file=sys.stderr)
    sys.exit(1 if found else 0)
