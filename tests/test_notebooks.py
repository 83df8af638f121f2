"""Every notebook runs from its first cell to its last, as its reader would run it."""

from pathlib import Path

import nbformat
import pytest
from forked import forked, run_notebooks

NBS = Path(__file__).parent.parent / "nbs"
NOTEBOOKS = {
    path: nbformat.read(path, as_version=4)
    for path in sorted(NBS.rglob("*.ipynb"))
    if path.parent.name != "reports"  # those are run by the command
}
# they make and train models, as test_checkpoints, test_seed2 and test_lm do with more of them
WITH_MODELS = (
    "zoo/decoders", "zoo/hf", "zoo/seed2", "lm", "tour: 06_a_language_model", "tour: 07_photographs"
)  # fmt: skip
TRAINING = {path for path in NOTEBOOKS if path.parent.name == "train"}  # minutes each
SLOW = {path for path, nb in NOTEBOOKS.items() if any(c.source.startswith("#| slow") for c in nb.cells)}
ROOMS: dict[str, list[Path]] = {}
for path in NOTEBOOKS:
    if path not in TRAINING:
        room = path.parent.relative_to(NBS).as_posix()
        alone = f"{room}: {path.stem}"
        ROOMS.setdefault(alone if alone in WITH_MODELS else room, []).append(path)


def runs(*paths: Path, skipped: tuple[str, ...] = ()) -> None:
    result = forked(run_notebooks, paths, skipped)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.run
@pytest.mark.parametrize(
    "room", [pytest.param(room, marks=[pytest.mark.slow] * (room in WITH_MODELS)) for room in ROOMS]
)
def test_the_notebooks_of_a_room_run(room):
    "One after the other in a process, which imports once what they share."
    runs(*ROOMS[room], skipped=("slow",))


@pytest.mark.slow  # cells that repeat a whole run of other tests
@pytest.mark.parametrize("path", sorted(SLOW | TRAINING), ids=lambda path: path.stem)
def test_a_notebook_runs_with_its_slow_cells(path):
    runs(path)
