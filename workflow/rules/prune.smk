# Move results of models that the grid no longer names out of results/, so that neither it nor DVC's ledger holds an old cell.
# The job exists only while there are such results. They are not deleted, because weights may be days of work and a grid is easily
# mistyped. Emptying work/pruned/ is up to the user; results that are moved back count as finished again.
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
