# Results of models that the grid does not name any more leave results/, so that neither it nor DVC's ledger holds a stale cell.
# The job exists only while there are such results. They are moved, not deleted: weights may be days of work, and a grid is easily
# mistyped. Emptying work/pruned/ is up to the user; what is moved back counts as finished again.
STALE = pruning.stale(PARAMS, Path(RESULTS))
ASIDE = pruning.free_folder(PRESET)


localrules:
    prune,


rule prune:
    output:
        pruning.list_of(ASIDE),
    log:
        f"logs/{PRESET}/prune.log",
    threads: 1
    params:
        preset=PRESET,
        results=RESULTS,
    message:
        f"Setting aside in {ASIDE} what the grid does not name any more: {', '.join(STALE)}"
    shell:
        "agave prune --preset {params.preset} --results {params.results}"
        " --aside $(dirname {output})/$(basename {output} .txt) > {log} 2>&1"


PRUNED = rules.prune.output if STALE else []
