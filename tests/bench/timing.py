"""How the benches take time: in turn, on one core."""

import statistics
import time
from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(a: Callable[[], object], b: Callable[[], object], rounds: int) -> float:
    "Median of time(a) / time(b), measured in turn, so that a machine whose speed drifts does not matter."
    a(), b()
    return statistics.median(seconds(a) / seconds(b) for _ in range(rounds))


def report(
    rows: list[tuple[str, float, str, float]], how: str = "median of pairs measured in turn, one core"
) -> int:
    """Print `how` it was measured, and (what, found, `>=` or `<=`, wanted; 0 for no floor) as a table.

    Returns 1 where one is missed, else 0.
    """
    good = [found >= wanted if sign == ">=" else found <= wanted for _, found, sign, wanted in rows]
    print(f"{how:52}{'found':>9}{'wanted':>12}")
    for (title, found, sign, wanted), passed in zip(rows, good, strict=True):
        print(
            f"{title:52}{found:9.3f}"
            + (f"{sign:>5}{wanted:7.2f}  {'pass' if passed else 'FAIL'}" if wanted else "")
        )
    return int(not all(good))
