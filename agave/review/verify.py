"""Check the results of a preset for a reviewer, without trained networks and without any change of the checkout.

This works with all results, and also in a clone of the git repository, which has neither weights nor image arrays.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agave.claims import Decision, comparison_text, counts, decisive
from agave.config import Params
from agave.errors import UserError
from agave.provenance.checksums import read_checksums
from agave.provenance.git import git_state
from agave.provenance.lineage import read_all
from agave.results import Results
from agave.review import redraw
from agave.review.checks import Check, check_chain, check_large_files, check_settings, check_small_files
from agave.review.planned import check_plan
from agave.review.pretrained import check_pretrained


def verify(params: Params, preset: str, results: Path, claims_file: Path, say: Callable[[str], None]) -> bool:
    """Check the results of a preset and print the verdict page.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        claims_file: claims.yaml.
        say: prints a line.

    Returns:
        Whether all is well.

    Raises:
        UserError: there is no list of checksums to check by, a run record is damaged, or there is no folder for temporary files.
    """
    began = time.monotonic()
    state = git_state()
    commit = f"commit {state['commit'][:10]}{', edited' if state['dirty'] else ''}" if state["commit"] else "no git repository"
    say(f"Results of the preset {preset} in {results}, {commit}\n")
    failed: list[str] = []
    waiting = "; the other checks wait for it"
    decisions: list[Decision] = []
    try:
        for check in _checks(Results(params, preset, results), claims_file, decisions):
            _show(check, say)
            failed += [check.name] if check.problems else []
            waiting = waiting if check.name == "checksums" else ""
    except OSError as error:
        raise UserError(
            f"{error.filename or tempfile.gettempdir()}: {error.strerror}; accepted: a $TMPDIR that can be written to"
        ) from None
    if decisions:
        say("\n" + "\n".join(claims_page(decisions)))
    verdict = f"NOT in order: {', '.join(failed)}{waiting}" if failed else "all is well"
    say(f"\nVERDICT: {verdict} ({time.monotonic() - began:.0f} s)")
    return not failed


def _checks(source: Results, claims_file: Path, decisions: list[Decision]) -> Iterator[Check]:
    """Run the checks in order. If the first one fails, the others are not run."""
    listed = read_checksums(source)
    check = check_small_files(source, listed)
    if not check.problems:  # else records may be damaged
        records = read_all(source)
        check = check_large_files(source, records, check)
    yield check
    if check.problems:  # nothing is drawn from what is damaged
        return
    yield check_chain(source, records, listed)
    yield check_settings(records, source.params)
    yield _redrawn(source, claims_file, decisions)
    yield check_pretrained()
    yield check_plan(source, records)


def _show(check: Check, say: Callable[[str], None]) -> None:
    say(f"{'FAILED' if check.problems else 'ok':<7} {check.name:<10} {check.summary}")
    for problem in check.problems[:20]:
        say(f"{'':<18} {problem}")
    if len(check.problems) > 20:
        say(f"{'':<18} and {len(check.problems) - 20} more")


def _redrawn(source: Results, claims_file: Path, decisions: list[Decision]) -> Check:
    """Make every table, figure and claim and the page again in another folder, and compare them with the results."""
    check = Check("redrawn")
    with tempfile.TemporaryDirectory(prefix="agave-verify-") as name:
        decisions += redraw.redraw(source.params, source.preset, source.folder, Path(name), claims_file)
        check.problems += [f"{source.folder / path}: {how}" for path, how in redraw.differences(source.folder, Path(name))]
        same = sum((source.folder / path).read_bytes() == (Path(name) / path).read_bytes() for path in redraw.drawn())
    total = len(redraw.drawn())
    rest = "" if same == total else f", {total - same - len(check.problems)} the same to rounding"
    check.summary = f"tables, figures, claims and page from the small files: {same} of {total} files the same bytes{rest}"
    return check


def claims_page(decisions: Sequence[Decision]) -> Iterator[str]:
    """Yield the verdicts as lines: two per claim, then the number of each verdict."""
    for decision in decisions:
        one = decisive(decision)
        yield f"{decision.claim.id:<4} {decision.verdict:<26} {decision.claim.claim}"
        yield f"{'':<31} {comparison_text(one) if one else decision.basis}"
    yield ", ".join(f"{number} {verdict}" for verdict, number in counts(decisions).items())
