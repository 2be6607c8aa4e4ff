"""The files that the page is made from, and those that it is. Apart from the page itself, so that they are listed without it."""

from __future__ import annotations

from agave import figures
from agave.config import Params
from agave.provenance.run_record import COMPUTE
from agave.results import CLAIMS, CODEC_TABLE, ORDER, TABLE_1, TRAINING_RECORDS

MANIFEST = "prepare/manifest.json"
PAGE = "page/index.html"
RECORD = "page/run.json"


def inputs(params: Params) -> list[str]:
    """List the files that the page shows, relative to results/<preset>/."""
    drawn = [path for name in figures.NAMES for path in figures.outputs(name) if not path.endswith(".pdf")]
    return [MANIFEST, TRAINING_RECORDS, TABLE_1, ORDER, CODEC_TABLE, *drawn, CLAIMS, COMPUTE]
