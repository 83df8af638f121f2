"""Every notebook runs from its first cell to its last, as its reader would run it."""

from pathlib import Path

import nbformat
import pytest
from forked import forked, run_notebook

NBS = Path(__file__).parent.parent / "nbs"
NOTEBOOKS = {
    path.relative_to(NBS).as_posix(): nbformat.read(path, as_version=4)
    for path in sorted(NBS.rglob("*.ipynb"))
    if path.parent.name != "reports"
    and ".ipynb_checkpoints" not in path.parts  # those are run by the command
}
TRAINING = {name for name in NOTEBOOKS if name.startswith("train/")}  # minutes each
SLOW = {name for name, nb in NOTEBOOKS.items() if any(c.source.startswith("#| slow") for c in nb.cells)}


def runs(name: str, skipped: tuple[str, ...]) -> None:
    result = forked(run_notebook, NBS / name, skipped, folder=(NBS / name).parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.run
@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in TRAINING])
def test_a_notebook_runs(name):
    runs(name, ("slow",))


@pytest.mark.slow  # cells that repeat a whole run of other tests
@pytest.mark.parametrize("name", sorted(SLOW | TRAINING))
def test_a_notebook_runs_with_its_slow_cells(name):
    runs(name, ())
