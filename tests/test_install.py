"""What is installed is what is imported, and what is not installed is said by its name in brackets."""

import ast
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from uti.errors import EXTRAS

ROOT = Path(__file__).parent.parent
SETTINGS = ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
# of those that are required
WITH_OTHERS = {"ipython", "jinja2", "jupyter-client", "nbclient", "pyzmq", "traitlets"}


def names(key: str) -> set[str]:
    "Distributions that a line of settings.ini names."
    return {re.split(r"[<>=!]", word)[0].lower() for word in SETTINGS["DEFAULT"][key].split()}


def imported() -> set[str]:
    "Distributions whose modules the package imports, anywhere in it."
    roots = set()
    for path in (ROOT / "uti").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add(node.module.split(".")[0])
    where = packages_distributions()
    found = {name for root in roots - sys.stdlib_module_names - {"uti", "pytest"} for name in where[root]}
    return {name.lower().replace("_", "-") for name in found}


def test_the_core_requires_what_the_package_imports():
    core, extras = names("requirements"), {e: names(f"{e}_requirements") for e in EXTRAS}
    assert imported() - core - WITH_OTHERS == {
        "transformers",
        "sentencepiece",
        "diffusers",
        "accelerate",
        "snac",
        "pyarrow",
        "ray",
        "imagecodecs",
    }
    assert not core - imported()
    assert SETTINGS["DEFAULT"]["extras"].split() == list(EXTRAS)
    assert all(set(modules) <= extras[extra] for extra, modules in EXTRAS.items())


@pytest.mark.run
def test_without_extras_the_main_job_runs_and_the_rest_says_what_to_install(tmp_path, small):
    (tmp_path / "dac").mkdir()
    (tmp_path / "dac" / "config.json").write_text('{"model_type": "dac"}')
    (tmp_path / "seed").mkdir()
    for name in ("eva_vit_g.pth", "seed_quantizer.pt"):
        (tmp_path / "seed" / name).touch()
    (tmp_path / "words.json").write_text("{}")
    commands = [
        ["audit", "--audio", "./dac"],
        ["audit", "--image", "./seed"],
        ["audit", "--text", "./words.json"],
        ["smoke"],
        ["tokenize", str(small), "--out", "out"],
        ["audit", "--smoke-assets", str(small)],
    ]
    code = f"""
import sys
absent = ["transformers", "diffusers", "accelerate", "tensorboard", "einops", "pyarrow", "ray"]
sys.modules.update(dict.fromkeys(absent))
from forked import be_brief
be_brief()
from typer.testing import CliRunner
from uti.cli.main import app
for arguments in {commands}:
    run = CliRunner().invoke(app, arguments)
    print(run.exit_code, run.stderr.strip().splitlines()[-1])
print("✓" in CliRunner().invoke(app, ["codecs"]).stdout)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert lines == [
        *["2 error: transformers is not installed; install uti[hf]"] * 3,
        "2 error: transformers and accelerate and tensorboard and pyarrow are not installed; install uti[lm]",
        "2 error: pyarrow is not installed; install uti[shards]",
        "0 [7/7] done",
        "True",
    ]
